package cache

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// A lease says what a process relies on: a file in tmp with the digests of it, 32 bytes each, which is locked while its
// process lives. The gate, a lock on the folder tmp itself, is shared by those who write into their lease and taken
// alone by who evicts: so he knows all that anybody relies on, and whoever comes later finds it gone.
type lease struct {
	mu   sync.Mutex
	held map[digest.Digest]bool
	file *os.File
	gate *os.File
	// closed is set when the lease cannot be written, since the disk is full: the gate stays shared then, and nothing
	// at all is evicted until this process is done.
	closed bool
}

const leasePrefix = "l-"

// Hold keeps what has the digest d, a blob, a layer or a chain, from being evicted until Close or the end of this
// process. It says nothing about whether it is there: that is to be looked at after Hold, not before.
func (s *Store) Hold(d digest.Digest) error {
	l := &s.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.held[d] {
		return nil
	}
	if l.gate == nil {
		gate, err := os.Open(s.path("tmp"))
		if err != nil {
			return err
		}
		l.gate, l.held = gate, map[digest.Digest]bool{}
	}
	if err := retry(func() error { return unix.Flock(int(l.gate.Fd()), unix.LOCK_SH) }); err != nil {
		return &os.PathError{Op: "lock", Path: l.gate.Name(), Err: err}
	}
	err := s.writeLease(d)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		l.closed = true
		return nil
	}
	if err == nil {
		l.held[d] = true
	}
	return errors.Join(err, unix.Flock(int(l.gate.Fd()), unix.LOCK_UN))
}

// writeLease adds d to the lease, which is made when there is none.
func (s *Store) writeLease(d digest.Digest) error {
	for s.lease.file == nil {
		f, err := os.CreateTemp(s.path("tmp"), leasePrefix)
		if err != nil {
			return err
		}
		// Between the two, CleanTemp of another process may have taken it for a dead one's.
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && same(f, f.Name()) {
			s.lease.file = f
			break
		}
		f.Close()
	}
	_, err := s.lease.file.Write(d[:])
	return err
}

// Close gives up what this process relied on. The Store may be used again, and relies on nothing then.
func (s *Store) Close() {
	l := &s.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		os.Remove(l.file.Name())
		l.file.Close()
	}
	if l.gate != nil {
		l.gate.Close()
	}
	l.file, l.gate, l.held, l.closed = nil, nil, nil, false
}

// Alone calls f while nobody can begin to rely on anything; held tells what processes rely on already, this
// one too. It is the lowest of all locks: f must not wait for another one, and should be quick.
func (s *Store) Alone(ctx context.Context, f func(held func(digest.Digest) bool) error) error {
	gate, err := os.Open(s.path("tmp"))
	if err != nil {
		return err
	}
	if err := flock(ctx, gate, unix.LOCK_EX); err != nil {
		return &os.PathError{Op: "lock", Path: gate.Name(), Err: err}
	}
	defer gate.Close()
	all, err := s.leased()
	if err != nil {
		return err
	}
	return f(func(d digest.Digest) bool { return all[d] })
}

// leased returns what all leases say together.
func (s *Store) leased() (map[digest.Digest]bool, error) {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return nil, err
	}
	all := map[digest.Digest]bool{}
	for _, e := range entries {
		if !isLease(e.Name()) || removeDead(s.path("tmp", e.Name())) {
			continue
		}
		b, err := os.ReadFile(s.path("tmp", e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // its process has ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		for ; len(b) >= len(digest.Digest{}); b = b[len(digest.Digest{}):] {
			all[digest.Digest(b[:len(digest.Digest{})])] = true
		}
	}
	return all, nil
}

// removeDead removes the file or folder of tmp whose process is gone, and reports whether it did: the kernel has freed its lock.
func removeDead(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && RemoveAll(path) == nil
}

func isLease(name string) bool { return strings.HasPrefix(name, leasePrefix) }
