package source

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

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
		_, d := hashed(t, l, name)
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
