package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"

	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIndexDamageIsAMiss(t *testing.T) {
	s := open(t)
	key, want := Key(digest.Of([]byte("key"))), digest.Of([]byte("result"))
	if _, ok, err := s.Lookup(t.Context(), key); ok || err != nil {
		t.Fatalf("empty index: %v %v", ok, err)
	}
	if err := s.Record(t.Context(), key, want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.Lookup(t.Context(), key); got != want || !ok || err != nil {
		t.Fatalf("%v %v %v", got, ok, err)
	}
	whole := encodeEntry(want)
	for name, data := range map[string][]byte{
		"empty": {}, "cut": whole[:30], "longer": append([]byte("x"), whole...), "other": []byte("result md5:xyz\n"), "zeros": make([]byte, len(whole)),
	} {
		if err := s.WriteFile(key.File(), data); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.Lookup(t.Context(), key); ok || err != nil {
			t.Errorf("%s: %v %v, want a miss", name, ok, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte("evicted 2026-01-02T03:04:05Z by the size limit\n"))
	f.Add(encodeEntry(digest.Of(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		switch e := decodeEntry(b); {
		case e.Damaged():
		case e.Eviction.At.IsZero():
			if string(encodeEntry(e.Result)) != string(b) {
				t.Fatalf("%q was read as a result", b)
			}
		default:
			if again := decodeEntry(encodeEviction(e.Eviction)); again != e {
				t.Fatalf("%q was read as %v, and that as %v", b, e, again)
			}
		}
	})
}

func addBlob(t *testing.T, s *Store, content string) digest.Digest {
	t.Helper()
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	d, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBlobs(t *testing.T) {
	s := open(t)
	d := addBlob(t, s, "hello")
	if d != digest.Of([]byte("hello")) {
		t.Fatal(d)
	}
	if n, ok := s.BlobSize(d); n != 5 || !ok {
		t.Errorf("size %d %v", n, ok)
	}
	r, err := s.VerifiedBlob(d)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "hello" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	r.Close()

	if err := os.WriteFile(s.Path(BlobFile(d)), []byte("hellO"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(s.Root()); err != nil { // the store that has written it does not hash it again
		t.Fatal(err)
	}
	r, err = s.VerifiedBlob(d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var damaged *DamagedError
	if _, err := io.ReadAll(r); !errors.As(err, &damaged) {
		t.Errorf("damaged bytes read without an error: %v", err)
	}
	if _, ok := s.BlobSize(d); ok {
		t.Error("a damaged blob is kept")
	}
	if _, err := s.ReadBlob(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing blob: %v", err)
	}
}

// What was hashed when it was written is not hashed again when it is read, unless somebody doubts it.
func TestBlobIsHashedOnce(t *testing.T) {
	s := open(t)
	d := addBlob(t, s, "hello")
	other, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	for reader, want := range map[*Store]bool{s: false, other: true} {
		r, err := reader.VerifiedBlob(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, hashes := r.(*verifiedBlob); hashes != want {
			t.Errorf("it is hashed: %v, want %v", hashes, want)
		}
		r.Close()
	}
	if err := s.CheckBlob(d); err != nil {
		t.Error(err)
	}
	os.WriteFile(s.Path(BlobFile(d)), nil, 0o600)
	var damaged *DamagedError
	if err := s.CheckBlob(d); !errors.As(err, &damaged) {
		t.Errorf("error %v", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	s := open(t)
	w, _ := s.NewBlob()
	io.WriteString(w, "half")
	w.Abort()
	s.Close()
	if names, _ := os.ReadDir(s.Path("tmp")); len(names) != 0 {
		t.Errorf("left in tmp: %v", names)
	}
}

func TestOtherLayoutIsRefused(t *testing.T) {
	s := open(t)
	if err := s.WriteFile("version", []byte("99\n")); err != nil {
		t.Fatal(err)
	}
	var e *StoreError
	if _, err := Open(s.Root()); !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("%v, want an error with a hint", err)
	}
}

func TestLockExcludesThreads(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	var inside, n atomic.Int64 // flock(2) orders memory, but the race detector does not know
	for range 8 {
		wg.Go(func() {
			for range 50 {
				unlock, err := s.Lock(context.Background(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two are inside")
				}
				n.Add(1)
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if n.Load() != 400 {
		t.Errorf("%d turns, want 400", n.Load())
	}
	if names, _ := os.ReadDir(s.Path("locks")); len(names) != 0 {
		t.Errorf("%d lock files are left", len(names))
	}
}

func TestLockWaitEndsWithContext(t *testing.T) {
	s := open(t)
	unlock, err := s.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := s.Lock(ctx, "x"); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	unlock()
	again, err := s.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// The lock of a killed process is free at once, and its temporary folder is removed by the next one that cleans.
func TestDeadProcessHoldsNothing(t *testing.T) {
	if root := os.Getenv("CACHE_TEST_CHILD"); root != "" {
		s, err := Open(root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lock(context.Background(), "x"); err != nil {
			t.Fatal(err)
		}
		dir, err := s.NewTempDir()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("ready\n")
		<-t.Context().Done() // never: it is killed
		dir.Remove()
	}
	s := open(t)
	s.Close() // one folder in tmp less
	child := exec.Command(os.Args[0], "-test.run", "^TestDeadProcessHoldsNothing$")
	child.Env = append(os.Environ(), "CACHE_TEST_CHILD="+s.Root())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := s.CleanTemp(); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(s.Path("tmp")); len(names) != 1 {
		t.Errorf("%d folders in tmp while their process lives, want 1", len(names))
	}
	child.Process.Kill()
	child.Wait()
	unlock, err := s.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := s.CleanTemp(); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(s.Path("tmp")); len(names) != 0 {
		t.Errorf("left in tmp: %v", names)
	}
}

func TestPublishKeepsTheFirst(t *testing.T) {
	real := renameNoReplace
	t.Cleanup(func() { renameNoReplace = real })
	for name, rename := range map[string]func(tmp, dst string) error{
		"a usual file system": real,
		"one that cannot":     func(string, string) error { return unix.EINVAL },
	} {
		t.Run(name, func(t *testing.T) {
			renameNoReplace = rename
			s := open(t)
			for _, file := range []string{"", "f", "g"} { // the first one is empty: rename(2) would replace it
				d, err := s.NewTempDir()
				if err != nil {
					t.Fatal(err)
				}
				os.Mkdir(d.Join("tree"), 0o755)
				if file != "" {
					os.WriteFile(d.Join("tree", file), nil, 0o644)
				}
				if err := s.Publish(d.Join("tree"), "layers/ab/tree"); err != nil {
					t.Fatal(err)
				}
				if err := d.Remove(); err != nil {
					t.Fatal(err)
				}
			}
			if names, err := os.ReadDir(s.Path("layers/ab/tree")); len(names) > 0 || err != nil {
				t.Errorf("%v %v, want what was there first", names, err)
			}
			if err := s.Publish(s.Path("tmp/none"), "layers/ab/other"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what is not there was published: %v", err)
			}
		})
	}
}

func TestRemoveAllOpensClosedFolders(t *testing.T) {
	dir := t.TempDir() + "/x"
	os.MkdirAll(dir+"/a/b", 0o755)
	os.WriteFile(dir+"/a/b/f", nil, 0o644)
	os.Chmod(dir+"/a/b", 0)
	os.Chmod(dir+"/a", 0)
	if err := RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
}

func BenchmarkLookup(b *testing.B) {
	s := open(b)
	key := Key(digest.Of([]byte(strings.Repeat("k", 10))))
	if err := s.Record(b.Context(), key, digest.Of(nil)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok, err := s.Lookup(b.Context(), key); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// A folder that NewTempDir returns is there, whatever another process cleans meanwhile.
func TestCleanTempSparesNewFolders(t *testing.T) {
	s := open(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := s.CleanTemp(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	lost := 0
	for range 500 {
		d, err := s.NewTempDir()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(d.Path); err != nil {
			lost++
		}
		d.Remove()
	}
	close(stop)
	wg.Wait()
	if lost > 0 {
		t.Errorf("%d of 500 new folders were taken for those of a dead process", lost)
	}
}

// A power cut may leave the file empty, which must not be the end of the store.
func TestEmptyVersionIsWrittenAgain(t *testing.T) {
	s := open(t)
	for _, torn := range []string{"", "\x00\x00"} {
		if err := s.WriteFile("version", []byte(torn)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(s.Root()); err != nil {
			t.Fatal(err)
		}
		if b, _ := s.ReadFile("version"); string(b) != version {
			t.Errorf("version is %q", b)
		}
	}
}

func TestSharedLock(t *testing.T) {
	s := open(t)
	lockShared := func() func() {
		t.Helper()
		unlock, err := s.LockShared(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	try := func() func() {
		t.Helper()
		unlock, err := s.TryLock("x")
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	one, two := lockShared(), lockShared()
	one()
	if try() != nil {
		t.Fatal("locked while it is shared")
	}
	two()
	alone := try()
	if alone == nil {
		t.Fatal("nobody holds it any more")
	}
	if try() != nil {
		t.Fatal("locked twice")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := s.LockShared(ctx, "x"); !errors.Is(err, cause) {
		t.Errorf("shared while it is locked: %v", err)
	}
	alone()
	lockShared()()
	if names, _ := os.ReadDir(s.Path("locks")); len(names) != 0 {
		t.Errorf("%d lock files are left", len(names))
	}
}

// Readers see nothing half done, whoever removes the file of the lock.
func TestSharedLockExcludesWriters(t *testing.T) {
	s := open(t)
	var writers, readers atomic.Int64
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			for range 40 {
				lock := s.LockShared
				if n%3 == 0 {
					lock = s.Lock
				}
				unlock, err := lock(context.Background(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				if n%3 == 0 {
					if writers.Add(1) != 1 || readers.Load() != 0 {
						t.Error("a writer is not alone")
					}
					writers.Add(-1)
				} else {
					readers.Add(1)
					if writers.Load() != 0 {
						t.Error("a reader beside a writer")
					}
					readers.Add(-1)
				}
				unlock()
			}
		})
	}
	wg.Wait()
}

func TestReadFileReadsAll(t *testing.T) {
	s := open(t)
	for _, size := range []int{0, 1, 511, 512, 513, 4096, 100_000} {
		want := bytes.Repeat([]byte("x"), size)
		if err := s.WriteFile("f", want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadFile("f"); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes: %d are read, %v", size, len(got), err)
		}
	}
	if _, err := s.ReadFile("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a missing file: %v", err)
	}
	if _, err := s.ReadFile("tmp"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("of a folder: %v", err)
	}
}
