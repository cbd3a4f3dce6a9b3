package oneuid

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// Nearly all calls end as if nobody had asked: the file has no mark, root makes a file, a process asks who it is. To
// tell takes two or three system calls, but Go's scheduler makes much more of a thread that waits, works for a
// microsecond and waits again. So the thread that answers leaves Go as it would for one long system call, and does
// not come back before a call needs more thought. Until then it must do nothing that the Go runtime would
// notice: what outside calls is nosplit, and the memory that it uses is that of a desk.

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// A quickKind says how a call may be answered at once.
type quickKind uint8

const (
	notQuick    quickKind = iota
	quickStat             // of a name
	quickFstat            // of a descriptor
	quickFchown           // to root
	quickCreate           // by root
	quickID               // of the process
)

// A quickCall is a call with a kind, and what that needs to know.
type quickCall struct {
	kind             quickKind
	dir, name, flags int8 // arguments; dir and flags may be missing, -1
	constFlags       int
	id               int8 // of quickCreds, for quickID
}

// quickCreds are what a process is most often asked for.
type quickCreds struct {
	ids  [4]uint32 // uid, euid, gid, egid
	root bool      // all that it makes is root's, and it may give everything away
}

func (c *creds) quick() quickCreds {
	return quickCreds{
		ids:  [4]uint32{c.uid.real, c.uid.effective, c.gid.real, c.gid.effective},
		root: c.uid.effective == 0 && c.uid.fs == 0,
	}
}

// know tells the desk about creds that are new to it.
func (d *desk) know(u *users) {
	if d.known == 0 {
		d.users[0] = u.first.quick()
		d.known = 1
	}
	for d.known <= len(u.list) && d.known < len(d.users) {
		d.users[d.known] = u.list[d.known-1].quick()
		d.known++
	}
}

// quickCalls returns the calls that may be answered at once, by their numbers.
var quickCalls = sync.OnceValue(func() *[maxNumber]quickCall {
	const nofollow = unix.AT_SYMLINK_NOFOLLOW
	list := new([maxNumber]quickCall)
	for name, c := range map[string]quickCall{
		"stat": {kind: quickStat, dir: -1, name: 0, flags: -1}, "lstat": {kind: quickStat, dir: -1, name: 0, flags: -1, constFlags: nofollow},
		"newfstatat": {kind: quickStat, dir: 0, name: 1, flags: 3}, "statx": {kind: quickStat, dir: 0, name: 1, flags: 2},
		"fstat": {kind: quickFstat}, "fchown": {kind: quickFchown},
		"mkdir": {kind: quickCreate}, "mkdirat": {kind: quickCreate}, "symlink": {kind: quickCreate}, "symlinkat": {kind: quickCreate},
		"open": {kind: quickCreate}, "openat": {kind: quickCreate}, "creat": {kind: quickCreate}, "openat2": {kind: quickCreate},
		"getuid": {kind: quickID, id: 0}, "geteuid": {kind: quickID, id: 1}, "getgid": {kind: quickID, id: 2}, "getegid": {kind: quickID, id: 3},
	} {
		if n, ok := seccomp.Number(name); ok && n < maxNumber {
			list[n] = c
		}
	}
	return list
})

const maxNumber = 512

// A desk is where calls come in. Its fields are plain memory for code that is not quite Go.
type desk struct {
	listener uintptr
	calls    *[maxNumber]quickCall
	// users are the creds with low numbers, see creds.go: the first of all are at 0.
	users [64]quickCreds
	known int // how many of them are there

	// inside says that this thread's root is that of the sandbox, and that of all its processes.
	inside bool
	// thorough says that a file may have an owner without having a mark.
	thorough bool

	n    notification
	resp response
	fds  [1]unix.PollFd
	lim  unix.Rlimit

	mark   [len(owners.Xattr) + 1]byte
	name   [256]byte
	local  unix.Iovec
	remote unix.RemoteIovec

	// pids are descriptors of processes, minus 1, by the last bits of their pids. That of one which has ended
	// is of no use, so it cannot be mistaken for that of another process with the same pid.
	pids     [64]struct{ pid, fd uint32 }
	pidFlags uintptr
}

func newDesk(fd int) *desk {
	d := &desk{listener: uintptr(fd), calls: quickCalls(), pidFlags: unix.PIDFD_THREAD}
	d.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	copy(d.mark[:], owners.Xattr)
	d.local.Base = &d.name[0]
	return d
}

// close closes what the desk has opened.
func (d *desk) close() {
	for _, p := range d.pids {
		if p.fd != 0 {
			unix.Close(int(p.fd - 1))
		}
	}
}

// wait waits for a call that needs more than a quick answer, which is in d.n then.
func (d *desk) wait() error {
	errno := d.outside()
	runtime.KeepAlive(d)
	switch errno {
	case 0:
		return nil
	case errnoEnd:
		return errEnd
	}
	return fmt.Errorf("receive a system call: %w", errno)
}

// errnoEnd is what outside returns when no process is left.
const errnoEnd = unix.ESHUTDOWN

//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) outside() syscall.Errno {
	entersyscall()
	errno := d.run()
	exitsyscall()
	return errno
}

//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) run() syscall.Errno {
	for {
		// Before Linux 6.11 nothing but poll tells that there will be no more calls.
		_, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&d.fds)), 1, 0, 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		if d.fds[0].Revents&unix.POLLIN == 0 {
			return errnoEnd
		}
		d.n = notification{} // the kernel insists
		_, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, d.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&d.n)))
		if errno == unix.ENOENT || errno == unix.EINTR { // it was killed
			continue
		}
		if errno != 0 {
			return errno
		}
		if !d.quick() {
			return 0
		}
		_, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, d.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&d.resp)))
		if errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// quick reports whether the call could be answered at once: by d.resp. To be in doubt is not wrong.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) quick() bool {
	if uint32(d.n.nr) >= maxNumber {
		return false
	}
	c := &d.calls[d.n.nr&(maxNumber-1)]
	d.resp = response{id: d.n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	switch c.kind {
	case quickStat:
		return d.quickStat(c)
	case quickFstat:
		return d.unmarkedFD(d.n.args[0])
	case quickFchown:
		u := d.user()
		return u != nil && u.root && toRoot(d.n.args[1]) && toRoot(d.n.args[2]) && d.unmarkedFD(d.n.args[0])
	case quickCreate:
		u := d.user()
		return u != nil && u.root
	case quickID:
		u := d.user()
		if u == nil {
			return false
		}
		d.resp.flags, d.resp.val = 0, int64(u.ids[c.id])
		return true
	}
	return false
}

// toRoot reports whether a change to that id is none for a file of root.
//
//go:nosplit
//go:norace
func toRoot(id uint64) bool { return uint32(id) == 0 || uint32(id) == none }

// user returns the creds of the process, or nil if they are not among the users.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) user() *quickCreds {
	_, _, errno := syscall.RawSyscall6(unix.SYS_PRLIMIT64, uintptr(d.n.pid), credsLimit, 0, uintptr(unsafe.Pointer(&d.lim)), 0, 0)
	switch n := d.lim.Cur; {
	case errno != 0:
		return nil
	case n < uint64(d.known) && n < uint64(len(d.users)):
		return &d.users[n]
	case n > maxCreds:
		return &d.users[0]
	}
	return nil
}

// quickStat reports whether what a stat is about has no mark.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) quickStat(c *quickCall) bool {
	flags := c.constFlags
	if c.flags >= 0 {
		flags = int(int32(d.n.args[c.flags]))
	}
	if !d.readName(d.n.args[c.name]) {
		return false
	}
	switch {
	case d.name[0] == 0 && flags&unix.AT_EMPTY_PATH == 0:
		return true // the kernel will say that there is no such file
	case d.name[0] == 0:
		return c.dir >= 0 && d.unmarkedFD(d.n.args[c.dir])
	case d.name[0] != '/' || !d.inside:
		return false
	}
	call := uintptr(unix.SYS_GETXATTR)
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		call = unix.SYS_LGETXATTR
	}
	_, _, errno := syscall.RawSyscall6(call, uintptr(unsafe.Pointer(&d.name)), uintptr(unsafe.Pointer(&d.mark)), 0, 0, 0, 0)
	switch errno {
	case 0:
		return false
	case unix.ENODATA, unix.ENOTSUP:
		return !d.thorough
	case unix.ENOENT, unix.ELOOP:
		return !d.ofProcess() // see findOwn
	}
	return true
}

// ofProcess reports whether the name may mean something else to the process: it is in /proc or /dev.
//
//go:nosplit
//go:norace
func (d *desk) ofProcess() bool {
	n := &d.name
	return n[1] == 'p' && n[2] == 'r' && n[3] == 'o' && n[4] == 'c' && n[5] == '/' || n[1] == 'd' && n[2] == 'e' && n[3] == 'v' && n[4] == '/'
}

// readName reads the name at address, unless it is long or lies across two pages.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) readName(address uint64) bool {
	const page = 4096
	size := min(page-address%page, uint64(len(d.name)))
	d.local.Len = size
	d.remote = unix.RemoteIovec{Base: uintptr(address), Len: int(size)}
	n, _, errno := syscall.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(d.n.pid), uintptr(unsafe.Pointer(&d.local)), 1, uintptr(unsafe.Pointer(&d.remote)), 1, 0)
	if errno != 0 {
		return false
	}
	for i := uintptr(0); i < n && i < uintptr(len(d.name)); i++ {
		if d.name[i] == 0 {
			return true
		}
	}
	return false
}

// unmarkedFD reports whether the file at a descriptor of the process has no mark, or whether there is none at all.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) unmarkedFD(fd64 uint64) bool {
	fd := int32(uint32(fd64))
	if fd < 0 {
		return fd != unix.AT_FDCWD // a folder; or none
	}
	own, errno := d.copyFD(fd)
	if errno != 0 {
		return errno == unix.EBADF
	}
	_, _, errno = syscall.RawSyscall6(unix.SYS_FGETXATTR, own, uintptr(unsafe.Pointer(&d.mark)), 0, 0, 0, 0)
	syscall.RawSyscall(unix.SYS_CLOSE, own, 0, 0)
	// EBADF: it is a place, which cannot be asked this way.
	return (errno == unix.ENODATA || errno == unix.ENOTSUP) && !d.thorough
}

// copyFD makes a descriptor of the process ours.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (d *desk) copyFD(fd int32) (uintptr, syscall.Errno) {
	p := &d.pids[d.n.pid&63]
	if p.fd != 0 && p.pid == d.n.pid {
		own, _, errno := syscall.RawSyscall(unix.SYS_PIDFD_GETFD, uintptr(p.fd-1), uintptr(fd), 0)
		if errno != unix.ESRCH {
			return own, errno
		}
	}
	if p.fd != 0 {
		syscall.RawSyscall(unix.SYS_CLOSE, uintptr(p.fd-1), 0, 0)
		p.fd = 0
	}
	pidfd, _, errno := syscall.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(d.n.pid), d.pidFlags, 0)
	if errno == unix.EINVAL && d.pidFlags != 0 { // before Linux 6.9 there are none of threads
		d.pidFlags = 0
		pidfd, _, errno = syscall.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(d.n.pid), 0, 0)
	}
	if errno != 0 {
		return 0, unix.ENOTSUP
	}
	p.pid, p.fd = d.n.pid, uint32(pidfd)+1
	own, _, errno := syscall.RawSyscall(unix.SYS_PIDFD_GETFD, pidfd, uintptr(fd), 0)
	return own, errno
}

// A root is a folder that can be this thread's.
type root int

// become changes what names mean to this thread.
func (r root) become() error {
	return errors.Join(unix.Fchdir(int(r)), unix.Chroot("."))
}

// noRoot is that of a thread which cannot change it, as in containers whose filter knows no unshare. It has more to think about.
const noRoot root = -1

// ownRoot lets this thread, which is locked and ends with its goroutine, change its root. It returns the one it has.
func ownRoot() root {
	if unix.Unshare(unix.CLONE_FS) != nil {
		return noRoot
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return noRoot
	}
	return root(fd)
}
