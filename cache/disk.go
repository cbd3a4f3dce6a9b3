package cache

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// Digests are the names in a folder of the store that keeps AB/CDEF... for each digest, in order. What is called
// otherwise is not one of them.
func (s *Store) Digests(dir string) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		shards, err := readNames(s.path(dir))
		if err != nil {
			yield(digest.Digest{}, err)
			return
		}
		for _, shard := range shards {
			names, err := readNames(s.path(dir, shard))
			if err != nil {
				yield(digest.Digest{}, err)
				return
			}
			for _, name := range names {
				var d digest.Digest
				if n, err := hex.Decode(d[:], []byte(shard+name)); len(shard) != 2 || len(name) != 62 || err != nil || n != len(d) {
					continue
				}
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

// readNames returns what is in a folder; there is nothing in one that is missing.
func readNames(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, nil
}

// readFile is os.ReadFile for small files of the store, of which a build may read thousands: three or four system calls where
// a file that Go waits for takes ten.
func readFile(path string) ([]byte, error) {
	b, err := readAll(path)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b, nil
}

func readAll(path string) ([]byte, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 512)
	for {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Read(fd, b[len(b):cap(b)])
			return err
		})
		if err != nil || n == 0 {
			return b, err
		}
		if b = b[:len(b)+n]; len(b) == cap(b) {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return nil, err
			}
			b = slices.Grow(b, max(512, int(st.Size)-len(b)+1))
		}
	}
}

// Touch says that a file or folder of the store is used now. What is not there is fs.ErrNotExist.
func (s *Store) Touch(name string) error {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, s.path(name), now, 0); err != nil {
		return &fs.PathError{Op: "touch", Path: s.path(name), Err: err}
	}
	return nil
}

// Used returns when a file or folder of the store was touched, or made, the last time; zero for one that is not there.
func (s *Store) Used(name string) time.Time {
	fi, err := os.Lstat(s.path(name))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// Trash is where things of the store go at once, to be removed when there is time for it.
type Trash struct {
	s   *Store
	dir *TempDir
	n   int
}

// NewTrash returns a new one, which must be emptied.
func (s *Store) NewTrash() (*Trash, error) {
	dir, err := s.NewTempDir()
	return &Trash{s: s, dir: dir}, err
}

// Take takes a file or folder out of the store. One that is not there is no error.
func (t *Trash) Take(name string) error {
	t.n++
	err := os.Rename(t.s.path(name), t.dir.Join(strconv.Itoa(t.n)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Empty removes what was taken. What a killed process has not removed any more, CleanTemp does.
func (t *Trash) Empty() error { return t.dir.Remove() }

// DiskUsage returns what a file, or a folder with all in it, takes of the disk, in bytes; files with several names count
// once. What goes away meanwhile does not count, nor what is in a folder that must not be read.
func DiskUsage(path string) (int64, error) {
	var total int64
	seen := map[[2]uint64]bool{}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "stat", Path: p, Err: err}
		}
		if id := [2]uint64{st.Dev, st.Ino}; st.Nlink > 1 && !d.IsDir() {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
