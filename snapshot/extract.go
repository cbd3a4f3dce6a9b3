package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/safefs"
	"github.com/seed0570efb0/build/internal/sparse"
)

// An extractor makes the tree of a layer in overlay form: a whiteout is a character device 0:0, an opaque
// directory has an extended attribute. Where only one id can own files, the tree is a marked one.
type extractor struct {
	root   *safefs.Root
	marked bool
	dirs   []Entry // their times are set last
	buf    []byte
}

func newExtractor(dir string) (*extractor, error) {
	root, err := safefs.Open(dir)
	if err != nil {
		return nil, err
	}
	return &extractor{root: root, marked: owners.OneID(), buf: make([]byte, 128<<10)}, nil
}

func (x *extractor) Close() { x.root.Close() }

// entry implements visitor.
func (x *extractor) entry(e *Entry, content io.Reader) error {
	if err := x.makeParents(parentOf(e.Path)); err != nil {
		return err
	}
	if err := x.clear(e); err != nil {
		return err
	}
	err := x.root.At("create", e.Path, func(dir int, name string) error { return x.create(dir, name, e, content) })
	if (e.Type == Char || e.Type == Block) && errors.Is(err, unix.EPERM) {
		return nil // a user namespace makes no device, nor could a process in it use one: the tree is without it
	}
	if err != nil {
		return explainOwner(e, err)
	}
	if e.Type == Hardlink {
		return nil
	}
	if e.Type == Dir {
		x.dirs = append(x.dirs, *e)
	}
	return explainOwner(e, setMetadata(x.root, e, x.marked))
}

// explainOwner says what an owner that this user namespace has no id for means.
func explainOwner(e *Entry, err error) error {
	if errors.Is(err, unix.EINVAL) && (e.UID != 0 || e.GID != 0) {
		return fmt.Errorf("owner %d:%d has no id in this user namespace; /etc/subuid and /etc/subgid must give the user a larger range: %w", e.UID, e.GID, err)
	}
	return err
}

// makeParents makes the directories that a tar leaves out.
func (x *extractor) makeParents(dir string) error {
	if dir == "." {
		return nil
	}
	st, err := x.root.Stat(dir)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := x.makeParents(parentOf(dir)); err != nil {
		return err
	}
	if err := x.root.RemoveAll(dir); err != nil {
		return err
	}
	return x.root.At("mkdir", dir, func(d int, name string) error { return unix.Mkdirat(d, name, 0o755) })
}

// clear removes what an earlier entry left at the path of e. A directory stays for a directory.
func (x *extractor) clear(e *Entry) error {
	st, err := x.root.Stat(e.Path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.Type == Dir && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	return x.root.RemoveAll(e.Path)
}

func (x *extractor) create(dir int, name string, e *Entry, content io.Reader) error {
	switch e.Type {
	case Regular:
		return x.createFile(dir, name, content)
	case Dir:
		err := unix.Mkdirat(dir, name, 0o700)
		if errors.Is(err, unix.EEXIST) {
			err = nil
		}
		return err
	case Symlink:
		return unix.Symlinkat(e.Link, dir, name)
	case Hardlink:
		return x.root.Link(e.Link, dir, name)
	case Char, Block:
		if x.marked {
			return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
		}
		return unix.Mknodat(dir, name, deviceType(e)|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case Fifo:
		return unix.Mknodat(dir, name, unix.S_IFIFO|0o600, 0)
	}
	return fmt.Errorf("entry of unknown type %q", e.Type)
}

func deviceType(e *Entry) uint32 {
	if e.Type == Block {
		return unix.S_IFBLK
	}
	return unix.S_IFCHR
}

func (x *extractor) createFile(dir int, name string, content io.Reader) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	if from, ok := content.(*os.File); ok {
		_, err = f.ReadFrom(from) // the kernel copies, or shares the blocks
	} else {
		w := sparse.NewWriter(f)
		if _, err = io.CopyBuffer(struct{ io.Writer }{w}, content, x.buf); err == nil {
			err = w.Finish()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func withFD(dir int, name string, flags int, f func(fd int) error) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

// setMetadata gives the file at e.Path owner, permission bits, extended attributes and time of e, in the order
// that keeps them: chown clears set-user-ID bits and capabilities. In a marked tree the owner is a mark; where
// there can be none, the table of contents of the layer has it.
func setMetadata(root *safefs.Root, e *Entry, marked bool) error {
	return root.At("set metadata of", e.Path, func(dir int, name string) error {
		own := func() error { return unix.Fchownat(dir, name, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW) }
		if marked {
			own = func() error { return writeMark(dir, name, e) }
		}
		if err := own(); err != nil {
			return err
		}
		if len(e.Xattrs) > 0 && (e.Type == Regular || e.Type == Dir) {
			if err := withFD(dir, name, 0, func(fd int) error { return setXattrs(fd, e.Xattrs) }); err != nil {
				return err
			}
		}
		if e.Type != Symlink {
			// The file is ours and no link: nobody else works on this tree.
			if err := unix.Fchmodat(dir, name, e.Mode, 0); err != nil {
				return err
			}
		}
		return safefs.SetTime(dir, name, e.Mtime)
	})
}

// writeMark marks the new file e.
func writeMark(dir int, name string, e *Entry) error {
	m := owners.Mark{UID: uint32(e.UID), GID: uint32(e.GID)}
	if e.Type == Char || e.Type == Block {
		m.Type, m.Major, m.Minor = deviceType(e), e.Major, e.Minor
	}
	if m.IsZero() || e.Type == Symlink || e.Type == Fifo {
		return nil
	}
	return withFD(dir, name, 0, func(fd int) error { return owners.Write(fmt.Sprintf("/proc/self/fd/%d", fd), m) })
}

func setXattrs(fd int, xattrs map[string]string) error {
	for k, v := range xattrs {
		err := unix.Fsetxattr(fd, k, []byte(v), 0)
		if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) && isForeign(k, v) {
			continue
		}
		return fmt.Errorf("%s: %w", k, err)
	}
	return nil
}

// capability is the extended attribute of a program's capabilities.
const capability = "security.capability"

// isForeign reports whether an attribute gives capabilities to the root of one user namespace only (version 3), which
// rootless builders have left in images. Where that namespace cannot be, the kernel does not take it; and of the others it
// shows another form.
func isForeign(name, value string) bool {
	return name == capability && len(value) == 24 && value[3] == 3
}

// hide makes what hides files of the layers below: the whiteouts and opaque directories among entries.
func (x *extractor) hide(t *TOC) error {
	for e := range t.Entries.All() {
		var err error
		switch {
		case e.Type == Whiteout:
			if err = x.makeParents(parentOf(e.Path)); err == nil {
				err = x.root.At("create", e.Path, func(dir int, name string) error { return unix.Mknodat(dir, name, unix.S_IFCHR, 0) })
			}
		case e.Opaque:
			if err = x.entry(&e, nil); err == nil { // the tar may have no entry of it
				err = x.root.At("hide what is below", e.Path, setOpaque)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func setOpaque(dir int, name string) error {
	return withFD(dir, name, unix.O_DIRECTORY, func(fd int) error { return unix.Fsetxattr(fd, overlayXattr+"opaque", []byte("y"), 0) })
}

// isGone reports whether err says that a file is not there, or one of the directories on the way to it.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// finish sets the times of directories, which making their entries has changed.
func (x *extractor) finish() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		e := &x.dirs[i]
		st, err := x.root.Stat(e.Path)
		if isGone(err) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue // replaced by a later entry
		}
		if err != nil {
			return err
		}
		if err := x.root.At("set time of", e.Path, func(dir int, name string) error { return safefs.SetTime(dir, name, e.Mtime) }); err != nil {
			return err
		}
	}
	return nil
}
