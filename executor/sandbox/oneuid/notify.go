package oneuid

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/seccomp.h that package unix lacks.
const (
	ioctlIDValid  = 0x40082102
	ioctlAddFD    = 0x40182103
	ioctlSetFlags = 0x40082104
)

// A notification is a struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32 // of the thread, in our pid namespace
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// A response is a struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// An addFD is a struct seccomp_notif_addfd.
type addFD struct {
	id         uint64
	flags      uint32
	src        uint32
	new        uint32
	newFDFlags uint32
}

// A reply is what a process gets from its call.
type reply struct {
	value int64
	errno unix.Errno
	kind  replyKind
}

type replyKind int

const (
	result   replyKind = iota
	toKernel           // the kernel carries out the call
	answered           // the call has ended already
)

// proceed leaves a call to the kernel.
var proceed = reply{kind: toKernel}

func value(n uint32) reply { return reply{value: int64(n)} }

func fail(err error) reply {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return reply{errno: errno}
}

// end is the reply of a call that returns nothing but an error.
func end(err error) reply {
	if err != nil {
		return fail(err)
	}
	return value(0)
}

var errEnd = errors.New("no process is left")

// send answers the call id.
func send(fd int, id uint64, r reply) error {
	resp := response{id: id, val: r.value, err: -int32(r.errno)}
	switch r.kind {
	case answered:
		return nil
	case toKernel:
		resp = response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	}
	errno := ioctlPointer(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp))
	if errno != 0 && errno != unix.ENOENT { // killed meanwhile
		return fmt.Errorf("answer a system call: %w", errno)
	}
	return nil
}

func ioctl(fd int, request, arg uintptr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	return errno
}

func ioctlPointer(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return errno
}
