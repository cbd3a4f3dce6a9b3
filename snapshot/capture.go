package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/sparse"
)

// A LinkOwner tells who owns a symbolic link or a pipe of a marked tree; the file is base in the folder dir, and at
// the path name in the tree.
type LinkOwner func(dir int, base, name string) (owners.Mark, error)

// captureOptions say what capture makes of the files it finds.
type captureOptions struct {
	// known, which may be nil, has the digests of files that need not be hashed again, and the owners of
	// links where links is nil.
	known *TOC
	// rehash says that files are hashed nevertheless.
	rehash bool
	// marked says that owners are those of marks and of links, see package owners.
	marked bool
	links  LinkOwner
	// below, when not nil, is what the layer is being made on: what is no change is not added. Where nothing is picked,
	// it is removed as well.
	below *View
	// picked, when not nil, is what is added of a folder that holds more than the layer, and whiteouts for what is gone.
	picked map[string]pick
}

// capture adds everything in dir, a tree in overlay form that nobody else changes meanwhile, to w.
func capture(ctx context.Context, w *Writer, dir string, o captureOptions) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	c := capturer{captureOptions: o, ctx: ctx, w: w, names: map[[2]uint64]string{}, gone: map[string][]string{}}
	for p, k := range o.picked {
		if k == pickGone {
			c.gone[parentOf(p)] = append(c.gone[parentOf(p)], path.Base(p))
		}
	}
	return c.dir(os.NewFile(uintptr(fd), dir), ".")
}

type capturer struct {
	captureOptions
	ctx   context.Context
	w     *Writer
	gone  map[string][]string  // what is picked and gone, by directory
	names map[[2]uint64]string // the first name of files with several
}

// dir adds what is in the directory p, open as f, and closes it. Descriptors lead from
// directory to directory, so that no length of path is too long.
func (c *capturer) dir(f *os.File, p string) error {
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	if c.picked != nil {
		names = pickedNames(c.picked, p, names, c.gone)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.entry(int(f.Fd()), name, join(p, name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *capturer) entry(dir int, name, p string) error {
	if c.picked[p] == pickGone {
		return c.w.Add(Entry{Path: p, Type: Whiteout}, nil)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	e := Entry{
		Path: p, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), Mtime: st.Mtim.Sec,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.file(dir, name, &st, e)
	case unix.S_IFDIR:
		return c.subdir(dir, name, e)
	case unix.S_IFLNK:
		e.Type = Symlink
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: p, Err: err}
		}
		e.Link = string(buf[:n])
		if err := c.ownLink(dir, name, &e); err != nil {
			return &os.PathError{Op: "owner", Path: p, Err: err}
		}
	case unix.S_IFCHR:
		if st.Rdev == 0 && c.picked != nil {
			return nil // in an overlay it could not have been made
		}
		if st.Rdev == 0 {
			return c.w.Add(Entry{Path: p, Type: Whiteout}, nil)
		}
		e.Type, e.Major, e.Minor = Char, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFBLK:
		e.Type, e.Major, e.Minor = Block, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFIFO:
		e.Type = Fifo
		if err := c.ownLink(dir, name, &e); err != nil {
			return &os.PathError{Op: "owner", Path: p, Err: err}
		}
	default:
		return nil // a socket: no tar can carry one
	}
	return c.w.Add(e, nil)
}

// ownLink gives e, which can carry no mark, its owner.
func (c *capturer) ownLink(dir int, name string, e *Entry) error {
	switch {
	case !c.marked:
	case c.links != nil:
		m, err := c.links(dir, name, e.Path)
		e.UID, e.GID = int(m.UID), int(m.GID)
		return err
	case c.known != nil:
		if k, ok := c.known.get(e.Path); ok && k.Type == e.Type {
			e.UID, e.GID = k.UID, k.GID
		}
	}
	return nil
}

// own makes e what the mark of the open file says.
func (c *capturer) own(fd int, e *Entry) {
	if !c.marked {
		return
	}
	m := owners.Read(fmt.Sprintf("/proc/self/fd/%d", fd))
	e.UID, e.GID = int(m.UID), int(m.GID)
	switch m.Type {
	case unix.S_IFCHR:
		e.Type = Char
	case unix.S_IFBLK:
		e.Type = Block
	default:
		return
	}
	e.Major, e.Minor = m.Major, m.Minor
}

func (c *capturer) subdir(dir int, name string, e Entry) error {
	e.Type = Dir
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	f := os.NewFile(uintptr(fd), e.Path)
	c.own(fd, &e)
	if e.Xattrs, e.Opaque, err = readXattrs(fd); err == nil {
		err = c.opaque(fd, &e)
	}
	if err == nil {
		err = c.w.Add(e, nil)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return c.dir(f, e.Path)
}

func (c *capturer) file(dir int, name string, st *unix.Stat_t, e Entry) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	defer unix.Close(fd)
	e.Type = Regular
	if c.own(fd, &e); e.Type != Regular {
		return c.w.Add(e, nil)
	}
	if st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := c.names[id]; ok {
			e.Type, e.Link = Hardlink, first
			return c.w.Add(e, nil)
		}
		c.names[id] = e.Path
	}
	e.Size = st.Size
	if c.known != nil && !c.rehash {
		if k, ok := c.known.get(e.Path); ok && k.Type == Regular && k.Size == e.Size {
			e.Digest = k.Digest
		}
	}
	if e.Xattrs, _, err = readXattrs(fd); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if same, err := c.unchanged(fd, st, &e); err != nil || same {
		if err == nil && c.picked == nil {
			err = removeUnseen(dir, name)
		}
		return err
	}
	return c.w.Add(e, stoppable{c.ctx, sparse.NewReader(fd, st)})
}

// readXattrs returns the extended attributes that images keep, and whether overlayfs marked a directory as opaque.
func readXattrs(fd int) (keep map[string]string, opaque bool, err error) {
	var space [1024]byte
	names := space[:]
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Flistxattr(fd, names)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, b := range bytes.Split(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		name := string(b)
		if name == overlayXattr+"opaque" {
			opaque = true
			continue
		}
		if !keepXattr(name) {
			continue
		}
		v := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, v)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", name, err)
		}
		if keep == nil {
			keep = map[string]string{}
		}
		keep[name] = string(v[:n])
	}
	return keep, opaque, nil
}
