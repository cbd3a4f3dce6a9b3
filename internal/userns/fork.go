package userns

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// os/exec cannot enter a user namespace that newuidmap maps: its child executes
// the program at once, and a process that does so while it has no mapped uid
// loses the capabilities it was given. Our child waits for its maps first.
//
// After the fork the child is a copy of one thread of a Go program, which must not
// allocate, grow its stack or wait for another goroutine. So it makes system calls only,
// with arguments that were prepared before; the runtime's own hooks around a fork hold
// signals back.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// A plan holds what the child needs to know.
type plan struct {
	exe        *byte
	argv, envv **byte
	root       *byte // "/"
	tmpfs      *byte // "tmpfs"
	parent     uintptr
	flags      uintptr // of clone
	probe      bool    // end after the set-up and a mount, in place of exec

	// Both pipes must block, as File.Fd leaves them.
	go0, go1     uintptr // a pipe: the parent writes a byte when the maps are written
	fail0, fail1 uintptr // a pipe: the child writes its failure; closed by exec
}

// A failure is what the child writes before it gives up.
type failure struct {
	Step  uint32
	Errno uint32
}

// The steps of the child, see failure.
const (
	stepWait = iota
	stepGID
	stepUID
	stepMount
	stepProbe
	stepParent
	stepExec
)

var stepNames = [...]string{
	stepWait:   "wait for the id maps",
	stepGID:    "setresgid 0",
	stepUID:    "setresuid 0",
	stepMount:  "make the mounts private",
	stepProbe:  "mount a tmpfs",
	stepParent: "die with the parent",
	stepExec:   "exec this program again",
}

// fork starts the child that carries out p and returns its process id. The caller holds syscall.ForkLock.
func fork(p *plan) (int, syscall.Errno) {
	beforeFork()
	pid, errno := forkChild(p)
	afterFork()
	return int(pid), errno
}

//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func forkChild(p *plan) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, p.flags, 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	afterForkInChild()
	step, errno := child(p)
	f := failure{step, uint32(errno)}
	syscall.RawSyscall(unix.SYS_WRITE, p.fail1, uintptr(unsafe.Pointer(&f)), unsafe.Sizeof(f))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

// child becomes the inner process, or returns the step that failed.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func child(p *plan) (step uint32, errno syscall.Errno) {
	// Without our copy of the writing end, a parent that dies is an end of file.
	syscall.RawSyscall(unix.SYS_CLOSE, p.go1, 0, 0)
	syscall.RawSyscall(unix.SYS_CLOSE, p.fail0, 0, 0)

	var b byte
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, p.go0, uintptr(unsafe.Pointer(&b)), 1)
	for errno == unix.EINTR {
		n, _, errno = syscall.RawSyscall(unix.SYS_READ, p.go0, uintptr(unsafe.Pointer(&b)), 1)
	}
	if n != 1 {
		return stepWait, errno
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno != 0 {
		return stepGID, errno
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
		return stepUID, errno
	}
	// The kernel did this already for a mount namespace that belongs to another user
	// namespace. It is the probe that AppArmor's restriction cannot pass.
	_, _, errno = syscall.RawSyscall6(unix.SYS_MOUNT,
		0, uintptr(unsafe.Pointer(p.root)), 0, unix.MS_REC|unix.MS_SLAVE, 0, 0)
	if errno != 0 {
		return stepMount, errno
	}
	if p.probe {
		_, _, errno = syscall.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(p.tmpfs)), uintptr(unsafe.Pointer(p.root)),
			uintptr(unsafe.Pointer(p.tmpfs)), 0, 0, 0)
		for errno == 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return stepProbe, errno
	}
	// A change of credentials clears this, so it comes after them.
	_, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	if errno != 0 {
		return stepParent, errno
	}
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != p.parent {
		return stepParent, unix.ESRCH
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE,
		uintptr(unsafe.Pointer(p.exe)), uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envv)))
	return stepExec, errno
}
