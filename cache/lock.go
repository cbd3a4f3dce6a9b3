package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// Lock waits until no other process, and no other caller in this one, holds the
// lock of that name, and returns the function that gives it up. The lock of
// a process that dies is free at once. Waiting ends with ctx.
//
// A holder may only wait for a lock of a lower rank, so that nobody waits in a circle: a step before
// the caches it mounts (by name), those before its layers, a layer before its blobs; then who evicts, before the lock of Publish,
// and what Alone takes is the lowest.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	return s.lock(ctx, name, unix.LOCK_EX)
}

// LockShared is Lock for those who can hold it at the same time: Lock waits for all of them.
func (s *Store) LockShared(ctx context.Context, name string) (unlock func(), err error) {
	return s.lock(ctx, name, unix.LOCK_SH)
}

// TryLock is Lock without waiting: it returns a nil function when somebody holds the lock.
func (s *Store) TryLock(name string) (unlock func(), err error) {
	unlock, err = s.lock(context.Background(), name, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return unlock, err
}

// lock is Lock for a kind of flock(2). With LOCK_NB in it, it does not wait.
func (s *Store) lock(ctx context.Context, name string, kind int) (unlock func(), err error) {
	h := digest.Of([]byte(name)).Hex()
	path := s.path("locks", h)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f, kind); err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if same(f, path) {
			return func() { giveUp(f, path, kind) }, nil
		}
		f.Close()
	}
}

// giveUp ends a lock. Removing the file before that keeps the folder small; who waited on this file sees
// that it is no longer the one of that name, and starts again. Only the last one who shares it may do so.
func giveUp(f *os.File, path string, kind int) {
	if kind&unix.LOCK_EX != 0 || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && same(f, path) {
		os.Remove(path)
	}
	f.Close()
}

// flock takes a lock of f, or closes it. flock(2) cannot be interrupted from outside, so when ctx ends
// first the waiting goroutine is left behind: it ends with its turn, or with the process.
func flock(ctx context.Context, f *os.File, kind int) error {
	err := retry(func() error { return unix.Flock(int(f.Fd()), kind|unix.LOCK_NB) })
	if kind&unix.LOCK_NB != 0 || !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			f.Close()
		}
		return err
	}
	done := make(chan error, 1)
	go func() { done <- retry(func() error { return unix.Flock(int(f.Fd()), kind) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		go func() { <-done; f.Close() }()
		return context.Cause(ctx)
	}
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// A TempDir is a folder for work in progress. It is locked while its process lives;
// CleanTemp removes those whose process is gone.
type TempDir struct {
	Path string
	lock *os.File
}

// NewTempDir makes a folder on the store's file system.
func (s *Store) NewTempDir() (*TempDir, error) {
	for {
		dir, err := os.MkdirTemp(s.path("tmp"), "d-")
		if err != nil {
			return nil, err
		}
		t, err := lockDir(dir)
		if err == nil {
			return t, nil
		}
		os.Remove(dir)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// CleanTemp of another process took the new folder for a dead one's before it was locked.
	}
}

func lockDir(dir string) (*TempDir, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !same(f, dir) {
		err = unix.ENOENT // it was removed between the two
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: dir, Err: err}
	}
	return &TempDir{Path: dir, lock: f}, nil
}

// Join returns the path of a name in the folder.
func (t *TempDir) Join(elem ...string) string {
	return filepath.Join(append([]string{t.Path}, elem...)...)
}

// Remove removes the folder and all in it.
func (t *TempDir) Remove() error {
	defer t.lock.Close()
	if unix.Rmdir(t.Path) == nil { // most are empty by then
		return nil
	}
	return RemoveAll(t.Path)
}

// Publish moves a file or folder of the store, named by its path, to its final name
// relative to the store. When that name is taken, the first one stays and tmp is left where it is.
func (s *Store) Publish(tmp, name string) error {
	dst := s.path(name)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	err := renameNoReplace(tmp, dst)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS and some FUSE file systems cannot
		err = s.publishAlone(tmp, name)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: tmp, New: dst, Err: err}
	}
	return nil
}

// renameNoReplace is a variable for tests: few file systems at hand cannot do it.
var renameNoReplace = func(tmp, dst string) error {
	return unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE)
}

// publishAlone keeps others from the name between the look whether it is taken and the rename.
func (s *Store) publishAlone(tmp, name string) error {
	unlock, err := s.Lock(context.Background(), "publish/"+name)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = os.Lstat(s.path(name))
	switch {
	case err == nil:
		return unix.EEXIST
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return unix.Rename(tmp, s.path(name))
}

// RemoveAll removes a tree although folders in it may have no write or search
// permission, as overlay's work folder and what steps leave behind.
func RemoveAll(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// CleanTemp removes what dead processes left: what is in tmp, and the files of their locks.
func (s *Store) CleanTemp() error {
	entries, err := os.ReadDir(s.path("tmp"))
	for _, e := range entries {
		removeDead(s.path("tmp", e.Name()))
	}
	locks, err1 := os.ReadDir(s.path("locks"))
	for _, e := range locks {
		removeLock(s.path("locks", e.Name()))
	}
	return errors.Join(err, err1)
}

// removeLock removes the file of a lock that nobody holds.
func removeLock(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && same(f, path) {
		os.Remove(path)
	}
	f.Close()
}
