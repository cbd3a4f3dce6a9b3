package oneuid

import (
	"encoding/binary"
	"unsafe"

	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// What a user other than root makes belongs to that user, so it is made here. A filter cannot
// know the user, so root's calls come here as well; they go back to the kernel at once.

// A newFile is a place where the process may make a file.
type newFile struct {
	parent int // O_PATH
	name   string
	mark   owners.Mark // of what will be there
	umask  uint32
	setgid uint32 // S_ISGID if a folder there gets it
}

// newFile finds the place of a new file. A nil newFile without error is a call for the kernel.
func (r *request) newFile(dir int, address uint64, c *creds) (*newFile, error) {
	name, err := r.string(address)
	if err != nil {
		return nil, err
	}
	parent, base, err := r.parent(dir, name)
	if err != nil || base == "" {
		return nil, nil // the kernel will say the same
	}
	f := &newFile{parent: parent, name: base, mark: owners.Mark{UID: c.uid.fs, GID: c.gid.fs}}
	if err := r.inherit(f, c); err != nil {
		unix.Close(parent)
		return nil, err
	}
	return f, nil
}

// inherit checks that the process may write to the parent, and takes from it what new files have.
func (r *request) inherit(f *newFile, c *creds) (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.parent, &st); err != nil {
		return err
	}
	m := r.mark(f.parent)
	if !c.mayWrite(m, st.Mode) {
		var there unix.Stat_t
		if unix.Fstatat(f.parent, f.name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return unix.EEXIST
		}
		return unix.EACCES
	}
	if st.Mode&unix.S_ISGID != 0 {
		f.mark.GID, f.setgid = m.GID, unix.S_ISGID
	}
	if f.umask, err = r.umask(); err != nil {
		return err
	}
	return r.alive()
}

// mayWrite reports whether a folder can be changed by c.
func (c *creds) mayWrite(m owners.Mark, mode uint32) bool {
	switch {
	case c.capable():
		return true
	case c.uid.fs == m.UID:
		mode >>= 6
	case c.member(m.GID):
		mode >>= 3
	}
	return mode&0o3 == 0o3
}

func (f *newFile) close() { unix.Close(f.parent) }

// finish gives the new file its mark, and its permission bits unless it is a link.
func (r *request) finish(f *newFile, kind, mode uint32) error {
	fd, err := unix.Openat(f.parent, f.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind != unix.S_IFLNK {
		// Our own umask had its say when the file was made.
		if err := unix.Chmod(selfFD(fd), mode&^f.umask); err != nil {
			return err
		}
	}
	return r.setMark(fd, f.mark)
}

// create answers a call that makes the file at address, unless that is for the kernel.
func (r *request) create(dir int, address uint64, c *creds, make func(*newFile) error) reply {
	f, err := r.newFile(dir, address, c)
	if err != nil {
		return fail(err)
	}
	if f == nil {
		return proceed
	}
	defer f.close()
	return end(make(f))
}

func (r *request) mknod(dir int, address, mode64, dev64 uint64) reply {
	mode, dev := uint32(mode64), uint64(uint32(dev64))
	kind := mode & unix.S_IFMT
	device := kind == unix.S_IFCHR && dev != 0 || kind == unix.S_IFBLK
	c := r.creds()
	switch {
	case device && !c.capable():
		return fail(unix.EPERM)
	case !device && c.uid.fs == 0:
		return proceed
	}
	return r.create(dir, address, c, func(f *newFile) error {
		real := kind
		if device {
			f.mark.Type, f.mark.Major, f.mark.Minor = kind, unix.Major(dev), unix.Minor(dev)
			real, dev = unix.S_IFREG, 0
		}
		if err := unix.Mknodat(f.parent, f.name, real|0o600, int(dev)); err != nil {
			return err
		}
		return r.finish(f, real, mode&0o7777)
	})
}

func (r *request) mkdir(dir int, address, mode uint64) reply {
	c := r.creds()
	if c.uid.fs == 0 {
		return proceed
	}
	return r.create(dir, address, c, func(f *newFile) error {
		if err := unix.Mkdirat(f.parent, f.name, 0o700); err != nil {
			return err
		}
		return r.finish(f, unix.S_IFDIR, uint32(mode)&0o1777|f.setgid)
	})
}

func (r *request) symlink(target uint64, dir int, address uint64) reply {
	c := r.creds()
	if c.uid.fs == 0 {
		return proceed
	}
	to, err := r.string(target) // newFile asks whether it was ours to read
	if err != nil {
		return fail(err)
	}
	return r.create(dir, address, c, func(f *newFile) error {
		if err := unix.Symlinkat(to, f.parent, f.name); err != nil {
			return err
		}
		return r.finish(f, unix.S_IFLNK, 0)
	})
}

// open answers an open that may make a file. One that is there is for the kernel.
func (r *request) open(dir int, address uint64, flags int, mode uint64) reply {
	c := r.creds()
	if c.uid.fs == 0 || flags&unix.O_PATH != 0 {
		return proceed
	}
	if flags&unnamed != 0 { // its folder would have to be opened here, and programs know file systems without such files
		return fail(unix.EOPNOTSUPP)
	}
	f, err := r.newFile(dir, address, c)
	if err == unix.EEXIST {
		return proceed // in a folder that is not for this user to change
	}
	if err != nil {
		return fail(err)
	}
	if f == nil {
		return proceed
	}
	defer f.close()
	// O_EXCL: a link that leads nowhere is not followed, here where it could lead to anywhere.
	fd, err := unix.Openat(f.parent, f.name, flags|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
	if err == unix.EEXIST {
		return proceed
	}
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, uint32(mode)&0o7777&^f.umask); err != nil {
		return fail(err)
	}
	if err := r.setMark(fd, f.mark); err != nil {
		return fail(err)
	}
	add := addFD{id: r.notification.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, src: uint32(fd), newFDFlags: uint32(flags) & unix.O_CLOEXEC}
	if errno := ioctlPointer(int(r.listener.Fd()), ioctlAddFD, unsafe.Pointer(&add)); errno != 0 && errno != unix.ENOENT {
		return fail(errno)
	}
	return reply{kind: answered}
}

// openat2 leaves to the kernel what makes no file. The rest is not known to users other than root: a path would have to be
// followed under the restrictions of the call, and programs have openat for kernels without it.
func (r *request) openat2() reply {
	if r.creds().uid.fs == 0 {
		return proceed
	}
	var flags [8]byte // the first field of struct open_how
	if r.read(r.args[2], flags[:]) == nil && binary.NativeEndian.Uint64(flags[:])&making != 0 {
		return fail(unix.ENOSYS)
	}
	return proceed
}
