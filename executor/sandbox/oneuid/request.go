package oneuid

import (
	"bytes"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A request is a call to answer.
type request struct {
	*Supervisor
	*notification
}

// int returns an argument that the kernel takes as an int.
func (r *request) int(n int) int { return int(int32(r.args[n])) }

// id returns an argument that is an id; -1 is none.
func (r *request) id(n int) uint32 { return uint32(r.args[n]) }

const none = ^uint32(0)

// alive returns an error if the process was killed: what was found under its pid may be another's.
func (r *request) alive() error {
	if errno := ioctlPointer(int(r.listener.Fd()), ioctlIDValid, unsafe.Pointer(&r.notification.id)); errno != 0 {
		return errno
	}
	return nil
}

// read fills b with the memory of the process from address on. What is done because of it must ask alive.
func (r *request) read(address uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := unix.ProcessVMReadv(int(r.pid), iovec(b), remote(address, len(b)), 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// write puts b into the memory of the process.
func (r *request) write(address uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := r.alive(); err != nil {
		return err
	}
	n, err := unix.ProcessVMWritev(int(r.pid), iovec(b), remote(address, len(b)), 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

func iovec(b []byte) []unix.Iovec {
	v := []unix.Iovec{{Base: &b[0]}}
	v[0].SetLen(len(b))
	return v
}

func remote(address uint64, n int) []unix.RemoteIovec {
	return []unix.RemoteIovec{{Base: uintptr(address), Len: n}}
}

// string returns the text at address, which ends with a zero byte.
func (r *request) string(address uint64) (string, error) {
	const page = 4096
	var text []byte
	var buf [page]byte
	for len(text) < unix.PathMax {
		// What is behind the end of the page may not be mapped, and most names are short.
		n := min(page-address%page, 256)
		b := buf[:n]
		if err := r.read(address, b); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(append(text, b[:i]...)), nil
		}
		text = append(text, b...)
		address += n
	}
	return "", unix.ENAMETOOLONG
}

// proc returns the path of a file of the process in our /proc.
func (r *request) proc(name string) string {
	return "/proc/" + strconv.Itoa(int(r.pid)) + "/" + name
}

func (r *request) procFD(fd int) string {
	if fd == unix.AT_FDCWD {
		return r.proc("cwd")
	}
	return r.proc("fd/" + strconv.Itoa(fd))
}

// selfFD returns a path that leads to what fd is open on.
func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// place opens as a place (O_PATH) what fd of the process is open on.
func (r *request) place(fd int) (int, error) {
	if fd < 0 && fd != unix.AT_FDCWD {
		return -1, unix.EBADF
	}
	own, err := unix.Open(r.procFD(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return -1, unix.EBADF
	}
	if err != nil {
		return -1, err
	}
	if err := r.alive(); err != nil {
		unix.Close(own)
		return -1, err
	}
	return own, nil
}

// find opens as a place what name means to the process, starting at its descriptor dir. The flags that
// count are AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH.
func (r *request) find(dir int, name string, flags int) (int, error) {
	if name == "" {
		if flags&unix.AT_EMPTY_PATH == 0 {
			return -1, unix.ENOENT
		}
		return r.place(dir)
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC}
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how.Flags |= unix.O_NOFOLLOW
	}
	if path.IsAbs(name) {
		return r.inRoot(name, how)
	}
	start, err := r.place(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(start)
	how.Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	fd, err := openat2(start, name, how)
	if err != unix.EXDEV {
		return fd, err
	}
	// It climbs, or meets a link to an absolute path: only from the root can that be followed.
	from, err := r.nameOf(selfFD(start))
	if err != nil {
		return -1, err
	}
	if r.chrooted {
		root, err := r.nameOf(r.proc("root"))
		if err != nil {
			return -1, err
		}
		if root != "" && from != root && !strings.HasPrefix(from, root+"/") {
			// It is not below the root of the process, which does not stop at that on the way up.
			how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
			return openat2(r.root, from+"/"+name, how)
		}
		from = strings.TrimPrefix(from, root)
	}
	return r.inRoot(from+"/"+name, how)
}

// inRoot opens name from the root of the process.
func (r *request) inRoot(name string, how unix.OpenHow) (int, error) {
	how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	if !r.chrooted {
		return openat2(r.root, name, how)
	}
	root, err := unix.Open(r.proc("root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	if err := r.alive(); err != nil {
		return -1, err
	}
	return openat2(root, name, how)
}

func openat2(dir int, name string, how unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &how)
		// EAGAIN: a rename somewhere made the kernel unsure about a "..".
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// parent opens the folder that a new file of that name goes into, and returns the last element of the
// name, "" if there is none that could be new.
func (r *request) parent(dir int, name string) (fd int, base string, err error) {
	before, base := path.Split(strings.TrimRight(name, "/"))
	if base == "" || base == "." || base == ".." {
		return -1, "", nil
	}
	if before == "" {
		before = "."
	}
	fd, err = r.find(dir, before, 0)
	return fd, base, err
}
