// Package safefs works on files below a folder whose content is hostile: no
// path leads out of the folder, and no symbolic link in it is followed.
package safefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A Root is an open folder. It is not safe for concurrent use.
type Root struct {
	fd  int
	dir string // for messages

	// The folder that was asked for last: files of a tree come folder by folder.
	lastPath string
	lastFD   int
}

// Open opens the folder dir.
func Open(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{fd: fd, dir: dir, lastFD: -1}, nil
}

// Close closes the folder.
func (r *Root) Close() error {
	r.Forget()
	return unix.Close(r.fd)
}

// Forget drops the remembered parent. It must be called when a folder was removed or replaced.
func (r *Root) Forget() {
	if r.lastFD >= 0 && r.lastFD != r.fd {
		unix.Close(r.lastFD)
	}
	r.lastFD = -1
}

// Parent returns a descriptor of the folder that holds p, and the last element of p. The
// descriptor is O_PATH, belongs to r, and is valid until the next call.
func (r *Root) Parent(p string) (int, string, error) {
	dir, name := path.Split(p)
	dir = path.Clean(dir)
	if r.lastFD >= 0 && r.lastPath == dir {
		return r.lastFD, name, nil
	}
	fd := r.fd
	if dir != "." {
		var err error
		if fd, err = r.open(dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
			return -1, "", err
		}
	}
	r.Forget()
	r.lastFD, r.lastPath = fd, dir
	return fd, name, nil
}

// open opens p. A path that is too long for the kernel is opened part by part.
func (r *Root) open(p string, flags uint64) (int, error) {
	dir := r.fd
	for rest := p; ; {
		part, how := rest, flags
		if i := strings.LastIndexByte(rest[:min(len(rest), unix.PathMax)], '/'); len(rest) >= unix.PathMax && i > 0 {
			part, how = rest[:i], unix.O_PATH|unix.O_DIRECTORY
		}
		fd, err := openBeneath(dir, part, how)
		if dir != r.fd {
			unix.Close(dir)
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path.Join(r.dir, p), Err: err}
		}
		if len(part) == len(rest) {
			return fd, nil
		}
		dir, rest = fd, rest[len(part)+1:]
	}
}

func openBeneath(dir int, p string, flags uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, p, how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue // EAGAIN: something was renamed while the kernel looked
		}
		return fd, err
	}
}

// OpenFile opens a file below r for reading. It does not follow a link at p either.
func (r *Root) OpenFile(p string) (*os.File, error) {
	fd, err := r.open(p, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// Stat returns the metadata of p itself, not of what a link points to.
func (r *Root) Stat(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	dir, name, err := r.Parent(p)
	if err != nil {
		return st, err
	}
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, r.wrap("lstat", p, err)
}

func (r *Root) wrap(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// At calls f with the folder that holds p and the last element of p, and names op and p in its error.
func (r *Root) At(op, p string, f func(dir int, name string) error) error {
	dir, name, err := r.Parent(p)
	if err != nil {
		return err
	}
	return r.wrap(op, p, f(dir, name))
}

// Link makes a hard link to p, called name in the folder dir; dir may be the descriptor that Parent or At gave.
func (r *Root) Link(p string, dir int, name string) error {
	keep, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // dir is only valid until the next call
	if err != nil {
		return err
	}
	defer unix.Close(keep)
	return r.At("link to", p, func(d int, n string) error { return unix.Linkat(d, n, keep, name, 0) })
}

// SetTime gives name in the folder dir, and not what a link points to, a time in whole seconds since 1970.
func SetTime(dir int, name string, seconds int64) error {
	t := unix.Timespec{Sec: seconds}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// RemoveAll removes p and all that is in it; one that is not there is no error.
func (r *Root) RemoveAll(p string) error {
	r.Forget()
	err := r.At("remove", p, removeAt)
	r.Forget()
	return err
}

func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAt(fd, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}
