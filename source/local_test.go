package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

func TestStatIndex(t *testing.T) {
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testkit.Tree(t, dir, "f = hello", "g = world")
	digestOf := func(name string, x *StatIndex) string {
		l, err := NewLocal(dir, nil, x)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := l.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Digest(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return d.Short()
	}
	// Files that are younger than a tick of the coarsest clock are not remembered.
	x := OpenStatIndex(disk, dir)
	digestOf("f", x)
	if len(all(x)) != 0 {
		t.Error("a file of this moment is remembered")
	}
	// However long reading them takes: what counts is when it began.
	asked := false
	x.now = func() time.Time {
		if !asked {
			asked = true
			return time.Now()
		}
		return time.Now().Add(time.Minute)
	}
	digestOf("f", x)
	if len(all(x)) != 0 {
		t.Error("a file of the moment its reading began is remembered")
	}
	later := func() time.Time { return time.Now().Add(time.Minute) }
	x.now = later
	hello := digestOf("f", x)
	if err := x.Save(); err != nil {
		t.Fatal(err)
	}
	x = OpenStatIndex(disk, dir)
	if len(all(x)) != 1 {
		t.Fatalf("%d files remembered, want 1", len(all(x)))
	}
	// That it is used shows when it lies.
	f := all(x)["f"]
	f.digest[0] ^= 0xff
	x.folders["."] = mergeIndexed(x.folders["."], map[string]indexed{"f": f})
	if got := digestOf("f", x); got == hello {
		t.Error("the index is not used")
	}
	// A change of the file shows, although the size stays.
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("HELLO"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := digestOf("f", OpenStatIndex(disk, dir)); got == hello {
		t.Error("a changed file has its old digest")
	}
	if err := disk.WriteFile(x.name, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if x := OpenStatIndex(disk, dir); len(all(x)) != 0 {
		t.Error("a damaged index is not empty")
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
	for dir, files := range x.fresh {
		for name, f := range files {
			out[filepath.Join(dir, name)] = f
		}
	}
	return out
}

// An index that is saved again and again knows what it was told last, and finds it in the order of names.
func TestStatIndexKeepsWhatItLearns(t *testing.T) {
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	want := map[string]indexed{}
	for range 20 {
		x := OpenStatIndex(disk, "/folder")
		for range r.IntN(8) {
			p := filepath.Join([]string{".", "a", "a/b", "c"}[r.IntN(4)], []string{"f", "f.txt", "g", "fa", "Z", "é"}[r.IntN(6)])
			f := indexed{stamp{r.Int64N(9), 1, 2, 3, 4}, digest.Of(fmt.Append(nil, r.Int()))}
			x.record(p, f.stamp, f.digest, time.Now())
			want[p] = f
		}
		if err := x.Save(); err != nil {
			t.Fatal(err)
		}
		x = OpenStatIndex(disk, "/folder")
		if d := cmp.Diff(want, all(x), cmp.AllowUnexported(indexed{}, stamp{})); d != "" {
			t.Fatal(d)
		}
		known := map[string]*remembered{}
		for _, p := range slices.Sorted(maps.Keys(want)) {
			dir, name := filepath.Dir(p), filepath.Base(p)
			if known[dir] == nil {
				known[dir] = x.folder(dir)
			}
			known[dir].digest(name[:len(name)-1], want[p].stamp) // what is not there takes nothing from what is behind it
			if got := known[dir].digest(name, want[p].stamp); got != want[p].digest {
				t.Errorf("%s has the digest %s, want %s", p, got, want[p].digest)
			}
		}
		for p, f := range want {
			other := f.stamp
			other.ino++
			if got := x.folder(filepath.Dir(p)).digest(filepath.Base(p), other); !got.IsZero() {
				t.Errorf("%s with another stamp has a digest", p)
			}
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
		{seal(statIndexMagic + file), false}, // sealed, but not by marshalStatIndex
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
	f.Add(marshalStatIndex(map[string][]byte{"a": block}), block)
	f.Fuzz(func(t *testing.T, file, folder []byte) {
		parseStatIndex(file)
		for rest := folder; len(rest) > 0; {
			var ok bool
			if _, _, rest, ok = cutIndexed(rest); !ok {
				break
			}
		}
		(&remembered{folder}).digest("b", stamp{1, 2, 3, 4, 5})
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
		err = x.Save()
	}
	if err != nil {
		b.Fatal(err)
	}
}
