package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// inTmp returns how many folders are in the tmp of a store.
func inTmp(t *testing.T, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func holds(t *testing.T, s *Store, d digest.Digest) (yes bool) {
	t.Helper()
	if err := s.Alone(t.Context(), func(held func(digest.Digest) bool) error { yes = held(d); return nil }); err != nil {
		t.Fatal(err)
	}
	return yes
}

// other opens the store of s as another process would.
func other(t *testing.T, s *Store) *Store {
	t.Helper()
	o, err := Open(s.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func TestHoldIsKnownToOthersUntilClose(t *testing.T) {
	s := open(t)
	o := other(t, s)
	a, b := digest.Of([]byte("a")), digest.Of([]byte("b"))
	for _, d := range []digest.Digest{a, b, a} {
		if err := s.Hold(d); err != nil {
			t.Fatal(err)
		}
	}
	if !holds(t, o, a) || !holds(t, o, b) || !holds(t, s, a) {
		t.Error("what is held is not known")
	}
	if holds(t, o, digest.Of([]byte("c"))) {
		t.Error("something else is held")
	}
	s.Close()
	if o.Close(); holds(t, o, a) || inTmp(t, s) > 0 {
		t.Error("the lease outlives Close")
	}
	if err := s.Hold(a); err != nil || !holds(t, o, a) {
		t.Errorf("a Store does not hold after Close: %v", err)
	}
}

// What a killed process has held is free at once, and what it was writing goes with the first who looks.
func TestDeadDeskHoldsNothing(t *testing.T) {
	s := open(t)
	s.Close()
	d := digest.Of([]byte("a"))
	for name, look := range map[string]func() error{
		"Alone":     func() error { return s.Alone(t.Context(), func(func(digest.Digest) bool) error { return nil }) },
		"CleanTemp": s.CleanTemp,
	} {
		dead := s.path("tmp", "d-dead")
		if err := errors.Join(os.Mkdir(dead, 0o700), os.WriteFile(dead+"/"+leaseName, d[:], 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := look(); err != nil || inTmp(t, s) > 0 {
			t.Errorf("%s: what a dead process was writing is left: %v", name, err)
		}
	}
	if err := s.Hold(d); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := other(t, s).CleanTemp(); err != nil || !holds(t, s, d) {
		t.Errorf("CleanTemp took a living lease: %v", err)
	}
}

// Whoever wants to hold something while another one evicts waits for him, and then knows what is gone.
func TestHoldWaitsForWhoIsAlone(t *testing.T) {
	s := open(t)
	o := other(t, s)
	d := digest.Of([]byte("a"))
	done := make(chan error)
	err := o.Alone(t.Context(), func(held func(digest.Digest) bool) error {
		gate, err := os.Open(s.path("tmp"))
		if err != nil {
			return err
		}
		defer gate.Close()
		if err := unix.Flock(int(gate.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("the gate is open to Hold: %v", err)
		}
		go func() { done <- s.Hold(d) }()
		return nil
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if !holds(t, o, d) {
		t.Error("what was held afterwards is not known")
	}
	s.Close()
}

func TestFullDiskKeepsEverything(t *testing.T) {
	s := open(t)
	full := &s.desk
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	full.file = f
	d := digest.Of([]byte("a"))
	if err := s.Hold(d); err != nil {
		t.Fatalf("Hold on a full disk: %v", err)
	}
	gate, err := os.Open(s.path("tmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	if flock(t.Context(), gate, unix.LOCK_EX|unix.LOCK_NB) == nil {
		t.Error("somebody may evict although a lease could not be written")
	}
	s.Close()
	if holds(t, s, d) {
		t.Error("it holds after Close")
	}
}

func TestEviction(t *testing.T) {
	s := open(t)
	key := Key(digest.Of([]byte("key")))
	if _, ok := s.Evicted(key); ok {
		t.Error("a key without an entry was evicted")
	}
	if err := s.Record(t.Context(), key, digest.Of([]byte("result"))); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Evicted(key); ok {
		t.Error("a result was evicted")
	}
	synctest.Test(t, func(t *testing.T) { // where the time is round
		want := Eviction{time.Now().UTC(), "by the size limit"}
		if err := s.Evict(key, want); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Evicted(key); !ok || got != want {
			t.Errorf("got %v, %v, want %v", got, ok, want)
		}
	})
	if _, ok, err := s.Lookup(t.Context(), key); ok || err != nil {
		t.Errorf("what was evicted is found: %v", err)
	}
	if err := s.Forget(key); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Evicted(key); ok || s.Forget(key) != nil {
		t.Error("it is not forgotten")
	}
}

func TestDigests(t *testing.T) {
	s := open(t)
	want := map[digest.Digest]bool{}
	for _, text := range []string{"a", "b", "c"} {
		d, err := s.WriteBlob([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		want[d] = true
	}
	for _, name := range []string{"README", "zz/x", "ab/cd", "ab/" + strings.Repeat("g", 62)} { // not ours
		if err := s.WriteFile(filepath.Join(BlobDir, name), nil); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for d, err := range s.Digests(BlobDir) {
		if n++; err != nil || !want[d] {
			t.Errorf("%s, %v", d, err)
		}
	}
	if n != len(want) {
		t.Errorf("%d digests, want %d", n, len(want))
	}
	for d, err := range s.Digests("missing") {
		t.Errorf("in a folder that is missing: %s, %v", d, err)
	}
}

func TestTrash(t *testing.T) {
	s := open(t)
	if err := s.WriteFile("a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	trash, err := s.NewTrash()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "missing"} {
		if err := trash.Take(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(s.path("a")); !os.IsNotExist(err) {
		t.Error("it is still there")
	}
	if err := trash.Empty(); err != nil {
		t.Error(err)
	}
	if s.Close(); inTmp(t, s) > 0 {
		t.Error("something is left in tmp")
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	before, err := DiskUsage(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(dir + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	after, err := DiskUsage(dir)
	if got := after - before; err != nil || got < 1<<20 || got > 2<<20 {
		t.Errorf("1 MiB under two names and a sparse file take %d bytes, %v", got, err)
	}
	if n, err := DiskUsage(dir + "/missing"); n != 0 || err != nil {
		t.Errorf("what is missing takes %d bytes, %v", n, err)
	}
}
