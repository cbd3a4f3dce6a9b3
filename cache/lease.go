package cache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// A desk is the folder in tmp where a process has what it is writing, and its lease, the digests of what it relies on, 32
// bytes each. It is locked while the process lives.
//
// The gate, a lock on the folder tmp itself, is shared by those who write into their lease and taken alone by who evicts: so
// he knows all that anybody relies on, and whoever comes later finds it gone.
type desk struct {
	mu   sync.Mutex
	dir  *TempDir
	held map[digest.Digest]bool
	file *os.File // the lease
	gate *os.File
	// closed is set when the lease cannot be written, since the disk is full: the gate stays shared then, and nothing
	// at all is evicted until this process is done.
	closed bool
}

const leaseName = "lease"

// folder returns the folder of the desk, which is made when there is none.
func (d *desk) folder(s *Store) (*TempDir, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.folderLocked(s)
}

func (d *desk) folderLocked(s *Store) (_ *TempDir, err error) {
	if d.dir == nil {
		d.dir, err = s.NewTempDir()
	}
	return d.dir, err
}

// Hold keeps what has the digest d, a blob, a layer or a chain, from being evicted until Close or the end of this
// process. It says nothing about whether it is there: that is to be looked at after Hold, not before.
func (s *Store) Hold(d digest.Digest) error {
	l := &s.desk
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
	err := l.write(s, d)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		l.closed = true
		return nil
	}
	if err == nil {
		l.held[d] = true
	}
	return errors.Join(err, unix.Flock(int(l.gate.Fd()), unix.LOCK_UN))
}

// write adds h to the lease.
func (d *desk) write(s *Store, h digest.Digest) error {
	if d.file == nil {
		dir, err := d.folderLocked(s)
		if err != nil {
			return err
		}
		if d.file, err = os.OpenFile(dir.Join(leaseName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			d.file = nil
			return err
		}
	}
	_, err := d.file.Write(h[:])
	return err
}

// Close gives up what this process relied on, and what it has not finished writing. The Store may be used again, and relies on nothing then.
func (s *Store) Close() {
	d := &s.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil {
		d.file.Close()
	}
	if d.dir != nil {
		_ = os.Remove(d.dir.Join(leaseName)) // mostly all that is in it
		_ = d.dir.Remove()
	}
	if d.gate != nil {
		d.gate.Close()
	}
	d.dir, d.file, d.gate, d.held, d.closed = nil, nil, nil, nil, false
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
		dir := s.path("tmp", e.Name())
		b, err := readFile(filepath.Join(dir, leaseName))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && removeDead(dir) {
			continue
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

// removeDead removes something in tmp whose process is gone, and reports whether it did: the kernel has freed its lock.
func removeDead(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && RemoveAll(path) == nil
}
