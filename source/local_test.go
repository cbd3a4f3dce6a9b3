package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

// paths returns what is seen of a folder.
func paths(t testing.TB, dir string, patterns []string) []string {
	t.Helper()
	l, err := NewLocal(dir, patterns, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out []string
	err = snapshot.Walk(l, ".", func(e snapshot.Entry) (bool, error) {
		if e.Path != "." {
			out = append(out, e.Path)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// oracle returns what BuildKit's client would send of the folder.
func oracle(t testing.TB, dir string, patterns []string) []string {
	t.Helper()
	all, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{ExcludePatterns: patterns})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = seen.Walk(context.Background(), "", func(p string, _ fs.DirEntry, err error) error {
		out = append(out, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var ignoreTree = []string{
	"a.log", "a.txt", "d/a.log", "d/b.txt", "d/e/a.log", "d/e/f/g.txt", "keep/a/x", "keep/b/y", "node_modules/p/index.js",
	"node_modules/q/README.md", "Dockerfile", ".dockerignore", ".git/config", "x@y/z",
}

var ignorePatterns = [][]string{
	nil,
	{"*.log"}, {"**/*.log"}, {"d"}, {"d/"}, {"d/e"}, {"d/*"}, {"*"}, {"**"},
	{"*", "!keep/a"}, {"*", "!keep"}, {"!keep/a", "*"}, {"keep", "!keep/b/y"}, {"*", "!d/e/f/g.txt"},
	{"node_modules", "!node_modules/*/README.md"}, {"node_modules", "!**/README.md"},
	{"**/*.txt", "!d/**"}, {"d", "!d/e", "d/e/f"}, {".*"}, {"[ad]*"}, {"?y"}, {"x@y"}, {"Dockerfile", ".dockerignore"},
	{"d/**", "!d/**/*.txt"}, {"*", "!**/g.txt"}, {"*", "!*/*/x"},
}

func TestIgnoreIsBuildKits(t *testing.T) {
	dir := t.TempDir()
	for _, p := range ignoreTree {
		testkit.Tree(t, dir, p+" = x")
	}
	for _, patterns := range ignorePatterns {
		t.Run(fmt.Sprint(patterns), func(t *testing.T) {
			want, got := oracle(t, dir, patterns), paths(t, dir, patterns)
			slices.Sort(want)
			slices.Sort(got)
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func FuzzIgnore(f *testing.F) {
	for _, p := range ignorePatterns {
		f.Add(strings.Join(p, "\n"))
	}
	dir := f.TempDir()
	for _, p := range ignoreTree {
		testkit.Tree(f, dir, p+" = x")
	}
	f.Fuzz(func(t *testing.T, text string) {
		patterns := strings.Split(text, "\n")
		if len(patterns) > 8 {
			return
		}
		l, err := NewLocal(dir, patterns, nil)
		if err != nil {
			return
		}
		defer l.Close()
		if err := snapshot.Walk(l, ".", func(snapshot.Entry) (bool, error) { return true, nil }); err != nil {
			return // a pattern that only shows to be wrong when it meets a path
		}
		for _, p := range paths(t, dir, patterns) {
			if _, err := os.Lstat(filepath.Join(dir, p)); err != nil {
				t.Errorf("%q is seen and not there", p)
			}
		}
	})
}

func TestIgnoredFolderIsNotEntered(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("as root a closed folder can be entered: only the result is checked")
	}
	dir := t.TempDir()
	testkit.Tree(t, dir, "open/f = x", "closed/f = x")
	if err := os.Chmod(filepath.Join(dir, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(dir, "closed"), 0o755)
	if d := cmp.Diff([]string{"open", "open/f"}, paths(t, dir, []string{"closed"})); d != "" {
		t.Error(d)
	}
}

func TestLocalEntries(t *testing.T) {
	dir := t.TempDir()
	testkit.Tree(t, dir, "f 4751 = hello", "l -> f", "p fifo", "h => f", "d/ 700")
	l, err := NewLocal(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := l.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprintf("%c %o %d:%d %s %s", e.Type, e.Mode, e.UID, e.GID, e.Path, e.Link))
	}
	want := []string{"d 700 0:0 d ", "f 4751 0:0 f ", "f 4751 0:0 h ", "l 777 0:0 l f", "p 644 0:0 p "}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if list[1].Inode == "" || list[1].Inode != list[2].Inode {
		t.Error("two names of one file have different inodes")
	}
	if d, err := l.Digest(t.Context(), list[1]); err != nil || d.Short() != "2cf24dba5fb0" {
		t.Errorf("digest %s %v", d, err)
	}
}

func TestFileThatChangesIsAnError(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	testkit.Tree(t, dir, "f = hello")
	l, err := NewLocal(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, _, err := l.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Digest(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("world"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(name, time.Unix(e.Mtime, 0), time.Unix(e.Mtime, 5))
	if _, err := l.Open(e); !errors.Is(err, snapshot.ErrChanged) {
		t.Errorf("Open after a change: %v", err)
	}
}

// A file that changes under the one who copies it is an error, however late: its new bytes are not those that its digest names.
func TestFileThatChangesWhileItIsRead(t *testing.T) {
	dir := t.TempDir()
	testkit.Tree(t, dir, "f = hello")
	l := local(t, dir, nil, nil)
	e, _, err := l.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Digest(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	r, err := l.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, []byte("HELLO"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(name, time.Unix(e.Mtime, 0), time.Unix(e.Mtime, 5))
	if b, err := io.ReadAll(r); !errors.Is(err, snapshot.ErrChanged) {
		t.Errorf("%q is read after it: %v", b, err)
	}
}

// Whatever takes the place of a file between the walk and the reading, it is neither waited for nor taken for the file.
func TestFileThatIsReplaced(t *testing.T) {
	for _, tree := range []string{"f fifo", "f -> other", "f/ 755"} {
		dir := t.TempDir()
		testkit.Tree(t, dir, "f 644", "other 644")
		l := local(t, dir, nil, nil)
		e, _, err := l.Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "f")); err != nil {
			t.Fatal(err)
		}
		testkit.Tree(t, dir, tree)
		if err := os.Chtimes(filepath.Join(dir, "f"), time.Time{}, time.Unix(e.Mtime, 0)); err != nil {
			t.Fatal(err)
		}
		if d, err := l.Digest(t.Context(), e); !errors.Is(err, snapshot.ErrChanged) {
			t.Errorf("%s has the digest %s: %v", tree, d.Short(), err)
		}
	}
}

// Times that no count of nanoseconds reaches are those of the file.
func TestTimesFarAway(t *testing.T) {
	dir := t.TempDir()
	testkit.Tree(t, dir, "f = hello")
	far := time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)
	ts := []unix.Timespec{{Sec: far.Unix()}, {Sec: far.Unix()}} // os.Chtimes counts nanoseconds
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "f"), ts, 0); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil {
		t.Fatal(err)
	}
	l := local(t, dir, nil, nil)
	e, _, err := l.Lstat("f")
	if err != nil || e.Mtime != st.Mtim.Sec {
		t.Errorf("the time is %d, and %d on the disk: %v", e.Mtime, st.Mtim.Sec, err)
	}
	if d, err := l.Digest(t.Context(), e); err != nil || d.Short() != "2cf24dba5fb0" {
		t.Errorf("digest %s %v", d, err)
	}
	if e, _, err := l.Lstat("f"); err != nil || e.Digest.Short() != "2cf24dba5fb0" || e.Mtime != st.Mtim.Sec {
		t.Errorf("seen again: %+v %v", e, err)
	}
	r, err := l.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "hello" || errors.Join(err, r.Close()) != nil {
		t.Errorf("%q %v", b, err)
	}
}

// A file with holes is the file with zeros, on whatever file system.
func TestHolesAreZeros(t *testing.T) {
	dir := t.TempDir()
	for name, zero := range map[string]func(f *os.File) error{
		"holes": func(f *os.File) error { return f.Truncate(5 << 20) },
		"zeros": func(f *os.File) error { _, err := f.Write(make([]byte, 5<<20)); return err },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = zero(f)
		}
		if err == nil {
			_, err = f.WriteAt([]byte("data"), 3<<20)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l := local(t, dir, nil, nil)
	var digests []digest.Digest
	for _, name := range []string{"holes", "zeros"} {
		e, _, err := l.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Digest(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Open(e)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || digest.Of(b) != d {
			t.Errorf("%s: %d bytes are read that have not its digest: %v", name, len(b), err)
		}
		digests = append(digests, d)
	}
	if digests[0] != digests[1] {
		t.Error("a hole is not hashed as zeros")
	}
}

func TestStatIndex(t *testing.T) {
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testkit.Tree(t, dir, "f = hello", "g = world")
	// digestOf asks for the digest of a file, and remembers it.
	digestOf := func(name string, now func() time.Time) string {
		t.Helper()
		x := OpenStatIndex(disk, dir)
		x.now = now
		l := local(t, dir, nil, x)
		e, _, err := l.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Digest(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		return d.Short()
	}
	// Files that are younger than a tick of the coarsest clock are not remembered.
	digestOf("f", time.Now)
	if known := all(OpenStatIndex(disk, dir)); len(known) != 0 {
		t.Error("a file of this moment is remembered")
	}
	// Nor are those that have got an old time just now, as from an archive: they may be written to and get it again.
	if err := os.Chtimes(filepath.Join(dir, "f"), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	digestOf("f", time.Now)
	if known := all(OpenStatIndex(disk, dir)); len(known) != 0 {
		t.Error("a file that got an old time at this moment is remembered")
	}
	// However long reading them takes: what counts is when it began.
	asked := false
	digestOf("f", func() time.Time {
		if !asked {
			asked = true
			return time.Now()
		}
		return time.Now().Add(time.Minute)
	})
	if known := all(OpenStatIndex(disk, dir)); len(known) != 0 {
		t.Error("a file of the moment its reading began is remembered")
	}
	later := func() time.Time { return time.Now().Add(time.Minute) }
	hello := digestOf("f", later)
	x := OpenStatIndex(disk, dir)
	if len(all(x)) != 1 {
		t.Fatalf("%d files remembered, want 1", len(all(x)))
	}
	// That it is used shows when it lies.
	f := all(x)["f"]
	f.digest[0] ^= 0xff
	rewrite(t, x, map[string][]byte{".": appendIndexed(nil, "f", f)})
	if got := digestOf("f", later); got == hello {
		t.Error("the index is not used")
	}
	// A change of the file shows, although the size stays.
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("HELLO"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := digestOf("f", later); got == hello {
		t.Error("a changed file has its old digest")
	}
	if err := disk.WriteFile(x.name, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if x := OpenStatIndex(disk, dir); len(all(x)) != 0 {
		t.Error("a damaged index is not empty")
	}
}

// local returns a folder, closed when the test ends.
func local(t *testing.T, dir string, patterns []string, x *StatIndex) *Local {
	t.Helper()
	l, err := NewLocal(dir, patterns, x)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// rewrite writes an index of the given folders.
func rewrite(t *testing.T, x *StatIndex, folders map[string][]byte) {
	t.Helper()
	err := x.store.WriteStream(x.name, func(w io.Writer) error {
		return writeStatIndex(w, func(yield func(string, []byte) bool) {
			for _, dir := range slices.Sorted(maps.Keys(folders)) {
				if !yield(dir, folders[dir]) {
					return
				}
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// all returns all that an index knows, by path.
func all(x *StatIndex) map[string]indexed {
	out := map[string]indexed{}
	for dir, b := range x.folders {
		for len(b) > 0 {
			name, f, rest, ok := cutIndexed(b)
			if !ok {
				panic("damaged")
			}
			out[filepath.Join(dir, string(name))], b = f, rest
		}
	}
	return out
}

// An index knows the files that are there: those that were hashed in any build, whatever that build ignored or did not read, and none that are gone.
func TestStatIndexKnowsWhatIsThere(t *testing.T) {
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testkit.Tree(t, dir, "a/f = 1", "a/f.o = 2", "a/g = 3", "b/c/h = 4", "b/i = 5", "top = 6")
	// hash has the files below p hashed, and returns the paths that are known afterwards.
	hash := func(p string, patterns ...string) string {
		t.Helper()
		x := OpenStatIndex(disk, dir)
		x.now = func() time.Time { return time.Now().Add(time.Minute) }
		l := local(t, dir, patterns, x)
		err := snapshot.Walk(l, p, func(e snapshot.Entry) (bool, error) {
			if e.Type != snapshot.Regular {
				return true, nil
			}
			_, err := l.Digest(t.Context(), e)
			return true, err
		})
		if err == nil {
			err = l.Save()
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(slices.Sorted(maps.Keys(all(OpenStatIndex(disk, dir)))), " ")
	}
	remove := func(p string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name, want string
		known      string
	}{
		{"one folder", "a/f a/f.o a/g", hash("a")},
		{"all", "a/f a/f.o a/g b/c/h b/i top", hash(".")},
		{"what is ignored", "a/f a/f.o a/g b/c/h b/i top", hash(".", "**/*.o", "b")},
		{"a folder that is read for what a pattern lets in again, and has nothing of it", "a/f a/f.o a/g b/c/h b/i new top",
			func() string { testkit.Tree(t, dir, "new = 7"); return hash(".", "a", "b", "!*/*.keep") }()},
		{"a file that is gone", "a/f a/f.o b/c/h b/i new top", func() string { remove("a/g"); return hash(".", "**/*.o", "b") }()},
		{"a file that is gone and was ignored", "a/f b/c/h b/i new top", func() string { remove("a/f.o"); return hash("a") }()},
		{"a folder that is gone and another that was not read", "b/c/h b/i new", func() string { remove("a"); remove("top"); return hash("b") }()},
	} {
		if step.known != step.want {
			t.Errorf("%s: it knows %s, want %s", step.name, step.known, step.want)
		}
	}
}

// An index that is saved again and again finds each file, and takes nothing for it that is another one's.
func TestStatIndexFinds(t *testing.T) {
	names := []string{"Z", "f", "f.txt", "fa", "g", "é"}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var b []byte
		want := map[string]indexed{}
		for _, name := range names {
			if r.IntN(2) == 0 {
				want[name] = indexed{stamp{r.Int64N(9), 1, 2, 3, 4}, digest.Of(fmt.Append(nil, r.Int()))}
				b = appendIndexed(b, name, want[name])
			}
		}
		known := remembered{rest: b}
		left := 0
		for _, name := range names {
			f, there := want[name]
			if r.IntN(4) == 0 { // nobody asks
				if there {
					left++
				}
				continue
			}
			if before := name[:len(name)-1]; !slices.Contains(names, before) && known.take(before) != nil {
				t.Errorf("there is something before %s", name)
			}
			record := known.take(name)
			if got := digestIn(record, f.stamp); there && got != f.digest || !there && record != nil {
				t.Errorf("%s has the digest %s, want %s", name, got, f.digest)
			}
			f.stamp.ino++
			if got := digestIn(record, f.stamp); !got.IsZero() {
				t.Errorf("%s with another stamp has a digest", name)
			}
		}
		if known.end() != (left > 0) {
			t.Errorf("%d records were not taken: %v", left, known.end())
		}
	}
}

// An index of another version tells nothing, and is not damaged: the next build that hashes a file writes one of this version.
func TestStatIndexOfAnotherVersion(t *testing.T) {
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seal := func(text string) []byte {
		sum := sha256.Sum256([]byte(text))
		return append([]byte(text), sum[:]...)
	}
	file := string(appendIndexed(nil, "f", indexed{stamp{1, 2, 3, 4, 5}, digest.Of(nil)}))
	x := OpenStatIndex(disk, "/folder")
	for _, c := range []struct {
		index []byte
		is    bool
	}{
		{seal("build stat index 1\n" + file), true}, // all paths in one list
		{seal("build stat index 3\n?"), true},       // of a newer program
		{seal(statIndexMagic), true},
		{seal(statIndexMagic + file), false}, // sealed, but not by writeStatIndex
		{seal("build files 1\n"), false},
		{seal("build stat index 1\n" + file)[1:], false},
		{[]byte("build stat index 1\n" + file), false},
		{[]byte("build stat index 1\n"), false},
		{[]byte("build"), false},
		{nil, false},
	} {
		if err := disk.WriteFile(x.name, c.index); err != nil {
			t.Fatal(err)
		}
		if got := IsStatIndex(c.index); got != c.is {
			t.Errorf("%.30q is an index: %v", c.index, got)
		}
		if known := all(OpenStatIndex(disk, "/folder")); len(known) != 0 {
			t.Errorf("%.30q: %v", c.index, known)
		}
	}
}

func FuzzStatIndex(f *testing.F) {
	block := appendIndexed(nil, "b", indexed{stamp: stamp{1, 2, 3, 4, 5}})
	var file bytes.Buffer
	if err := writeStatIndex(&file, func(yield func(string, []byte) bool) { yield("a", block) }); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes(), block)
	f.Fuzz(func(t *testing.T, file, folder []byte) {
		parseStatIndex(file)
		for rest := folder; len(rest) > 0; {
			var ok bool
			if _, _, rest, ok = cutIndexed(rest); !ok {
				break
			}
		}
		digestIn((&remembered{rest: folder}).take("b"), stamp{1, 2, 3, 4, 5})
	})
}

// BenchmarkContextHash reads a context: for the first time, and when nothing has changed since. ns/file and B/op for each file should
// not grow with the number of files.
func BenchmarkContextHash(b *testing.B) {
	for _, n := range []int{2000, 20_000, 200_000} {
		b.Run(fmt.Sprint("files=", n), func(b *testing.B) {
			if n > 20_000 && testing.Short() {
				b.Skip("it writes 200,000 files")
			}
			dir := b.TempDir()
			for i := range n {
				d := filepath.Join(dir, fmt.Sprint(i/50))
				os.MkdirAll(d, 0o755)
				if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), []byte(strings.Repeat("x", 2000)), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			disk, err := cache.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			for range 2 { // what changed while the clock had the same time is hashed once more
				hashContext(b, disk, dir)
			}
			b.Run("first", func(b *testing.B) {
				for b.Loop() {
					hashContext(b, nil, dir)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/file")
			})
			b.Run("unchanged", func(b *testing.B) {
				for b.Loop() {
					hashContext(b, disk, dir)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/file")
			})
		})
	}
}

// hashContext asks for the digests of all files, with the stat index of a store if there is one.
func hashContext(b *testing.B, disk *cache.Store, dir string) {
	b.ReportAllocs()
	var x *StatIndex
	if disk != nil {
		x = OpenStatIndex(disk, dir)
	}
	l, err := NewLocal(dir, nil, x)
	if err != nil {
		b.Fatal(err)
	}
	err = snapshot.Walk(l, ".", func(e snapshot.Entry) (bool, error) {
		if e.Type != snapshot.Regular {
			return true, nil
		}
		_, err := l.Digest(b.Context(), e)
		return true, err
	})
	if err == nil && x != nil {
		err = l.Save()
	}
	if err != nil {
		b.Fatal(err)
	}
}
