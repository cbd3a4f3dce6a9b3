package sandbox

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A child that shares our memory, as that of vfork(2) does, costs a fraction of one that gets a copy of the page tables of a
// Go program, let alone of a second Go program. Its price is that it must not do
// anything that the Go runtime would notice; so all it does is to go through a program. This
// thread sleeps until the child executes its command or ends.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// rawVfork is clone(2) without a stack for the child: it returns twice to its caller, which must not return in the child.
func rawVfork(flags uintptr) (pid uintptr, errno syscall.Errno)

// vfork starts a child that carries out p, in new namespaces after flags. It returns when the child has executed
// a program, or else the failure that has ended it; errno is that of the fork itself.
func vfork(flags uintptr, p *program) (pid int, f *failure, errno syscall.Errno) {
	stopped := failure{call: -1}
	beforeFork()
	n, errno := forkChild(flags|unix.CLONE_VM|unix.CLONE_VFORK|uintptr(unix.SIGCHLD), p.calls, &stopped)
	afterFork()
	runtime.KeepAlive(p)
	if errno == 0 && stopped.call >= 0 {
		f = &stopped
	}
	return int(n), f, errno
}

// forkChild is where the child lives. The parent returns at once: what is below this frame is the child's.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func forkChild(flags uintptr, calls []call, f *failure) (pid uintptr, errno syscall.Errno) {
	pid, errno = rawVfork(flags)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	// What the runtime has for a child here, to take back its signal handlers and to unblock signals, is left out: exec does the
	// one, and the other is for when it has been done.
	runCalls(calls, f)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

// runCalls makes the calls, the last of which does not return; when one fails it says so in f.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func runCalls(calls []call, f *failure) {
	for i := range calls {
		c := &calls[i]
		var errno syscall.Errno
		if c.search != nil {
			errno = c.search.run()
		} else {
			errno = c.run()
		}
		if errno != 0 {
			f.call, f.errno = i, errno
			return
		}
	}
}

//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (c *call) run() syscall.Errno {
	if c.from != nil {
		c.args[0] = uintptr(*c.from)
	}
	for {
		r, _, errno := syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		switch {
		case errno == unix.EINTR || errno != 0 && errno == c.again:
			continue
		case errno == 0 && c.zero && r != 0:
			return unix.ESRCH
		case errno != 0 && (errno == c.forgive[0] || errno == c.forgive[1]):
			return 0
		}
		if c.to != nil {
			*c.to = int32(r)
		}
		return errno
	}
}

// run stores the first candidate that can be executed. One that is there but may not be executed explains a failure better than
// those that are missing.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func (s *search) run() syscall.Errno {
	found := syscall.Errno(unix.ENOENT)
	for _, file := range s.candidates {
		errno := executable(file)
		if errno == 0 {
			*s.file = file
			return 0
		}
		if len(s.candidates) == 1 || errno == unix.EACCES {
			found = errno
		}
	}
	return found
}

// executable returns why the file with that path cannot be executed.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func executable(path uintptr) syscall.Errno {
	var st unix.Stat_t
	if _, _, errno := syscall.RawSyscall6(unix.SYS_NEWFSTATAT, atCWD, path, uintptr(unsafe.Pointer(&st)), 0, 0, 0); errno != 0 {
		return errno
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_FACCESSAT2, atCWD, path, unix.X_OK, unix.AT_EACCESS, 0, 0)
	return errno
}
