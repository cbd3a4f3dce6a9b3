package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

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
	l := local(t, dir, nil, nil)
	e, _ := hashed(t, l, "f")
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
	e, _ := hashed(t, l, "f")
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
		e, d := hashed(t, l, name)
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

// hashed returns a file of a folder, and the digest that was asked for it.
func hashed(t *testing.T, l *Local, name string) (snapshot.Entry, digest.Digest) {
	t.Helper()
	e, _, err := l.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Digest(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
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
