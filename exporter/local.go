package exporter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/safefs"
	"github.com/seed0570efb0/build/snapshot"
)

// local writes the root file systems into a folder. Its files belong to the caller. What the folder has already stays,
// unless an image has something of that name; links in it are never followed, whoever made them.
func (x *Exporter) local(ctx context.Context, images []*Image, out Output) error {
	if err := os.MkdirAll(out.Dest, 0o755); err != nil {
		return err
	}
	root, err := safefs.Open(out.Dest)
	if err != nil {
		return err
	}
	defer root.Close()
	f := folder{root: root, warn: x.warn, temp: ".build-" + rand.Text(), buf: make([]byte, 128<<10)}
	n := int64(0)
	owners := map[string]*Image{} // of what is no folder
	err = x.files(ctx, images, out, func(img *Image, e snapshot.Entry, open opener) error {
		if n++; n%1000 == 0 {
			x.progress(fmt.Sprintf("copying files: %d", n), 0, 0)
		}
		if e.Type != snapshot.Dir && len(images) > 1 {
			if o := owners[e.Path]; o != nil && o != img {
				return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", e.Path, o.platform(), img.platform())
			}
			owners[e.Path] = img
		}
		return f.add(e, open)
	})
	return errors.Join(err, f.finish())
}

// A folder takes the files of an image.
type folder struct {
	root *safefs.Root
	warn func(format string, args ...any)
	temp string           // the name of a file until it is whole
	dirs []snapshot.Entry // their modes and times are set last
	buf  []byte
}

func (f *folder) add(e snapshot.Entry, open opener) error {
	switch e.Type {
	case snapshot.Dir:
		return f.mkdir(e)
	case snapshot.Char, snapshot.Block:
		f.warn("%s: a device node is not written to a folder", e.Path)
		return nil
	}
	if err := f.clear(e, false); err != nil {
		return err
	}
	err := f.root.At("create", e.Path, func(dir int, _ string) error { return f.create(dir, e, open) })
	if err == nil {
		err = f.root.At("rename", e.Path, func(dir int, name string) error { return unix.Renameat(dir, f.temp, dir, name) })
	}
	if err != nil {
		_ = f.root.At("remove", path.Join(path.Dir(e.Path), f.temp), func(dir int, name string) error { return unix.Unlinkat(dir, name, 0) })
	}
	return err
}

// clear makes room for e. A directory makes room for another directory only by staying.
func (f *folder) clear(e snapshot.Entry, keepDir bool) error {
	st, err := f.root.Stat(e.Path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir == keepDir {
		return nil // a file is replaced when the new one is whole
	}
	return f.root.RemoveAll(e.Path)
}

func (f *folder) mkdir(e snapshot.Entry) error {
	if err := f.clear(e, true); err != nil {
		return err
	}
	f.dirs = append(f.dirs, e)
	return f.root.At("mkdir", e.Path, func(dir int, name string) error {
		err := unix.Mkdirat(dir, name, 0o700)
		if errors.Is(err, unix.EEXIST) {
			// It is a directory and no link: nobody but us works here, and a race could only change the
			// mode of what its owner may change as well.
			return unix.Fchmodat(dir, name, 0o700|e.Mode&0o777, 0)
		}
		return err
	})
}

// create makes e under its temporary name.
func (f *folder) create(dir int, e snapshot.Entry, open opener) error {
	switch e.Type {
	case snapshot.Regular:
		return f.createFile(dir, e, open)
	case snapshot.Symlink:
		if err := unix.Symlinkat(e.Link, dir, f.temp); err != nil {
			return err
		}
	case snapshot.Hardlink:
		return f.root.Link(e.Link, dir, f.temp)
	case snapshot.Fifo:
		if err := unix.Mknodat(dir, f.temp, unix.S_IFIFO|e.Mode&0o777, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry of unknown type %q", e.Type)
	}
	return safefs.SetTime(dir, f.temp, e.Mtime)
}

func (f *folder) createFile(dir int, e snapshot.Entry, open opener) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	fd, err := unix.Openat(dir, f.temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), e.Path)
	_, err = io.CopyBuffer(struct{ io.Writer }{dst}, r, f.buf)
	if err == nil {
		err = unix.Fchmod(fd, e.Mode)
		if errors.Is(err, unix.EPERM) {
			err = unix.Fchmod(fd, e.Mode&0o777) // a file system without set-user-ID
		}
	}
	if c := dst.Close(); err == nil {
		err = c
	}
	if err != nil {
		return err
	}
	return safefs.SetTime(dir, f.temp, e.Mtime)
}

// finish gives directories their modes and times, the innermost first.
func (f *folder) finish() error {
	for i := len(f.dirs) - 1; i >= 0; i-- {
		e := f.dirs[i]
		err := f.root.At("set mode of", e.Path, func(dir int, name string) error {
			if err := unix.Fchmodat(dir, name, e.Mode, 0); err != nil {
				return err
			}
			return safefs.SetTime(dir, name, e.Mtime)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
