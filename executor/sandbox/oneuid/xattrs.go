package oneuid

import (
	"bytes"

	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// Marks are ours: a step does not see them, so that nothing copies them with a file, and does not make any.

// changeXattr answers setxattr, removexattr and their kin, where the name is the second argument.
func (r *request) changeXattr() reply {
	name, err := r.string(r.args[1])
	if err == nil && name == owners.Xattr {
		return fail(unix.EPERM)
	}
	return proceed
}

func (r *request) listPath(flags int) reply {
	name, err := r.string(r.args[0])
	if err != nil {
		return proceed
	}
	fd, err := r.findOr(unix.AT_FDCWD, name, flags)
	if err != nil {
		return proceed
	}
	defer unix.Close(fd)
	return r.list(fd)
}

func (r *request) listFD() reply {
	fd, err := r.place(r.int(0))
	if err != nil {
		return proceed
	}
	defer unix.Close(fd)
	return r.list(fd)
}

// list answers listxattr for the place fd.
func (r *request) list(fd int) reply {
	if owners.Read(selfFD(fd)).IsZero() {
		return proceed
	}
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(selfFD(fd), names)
	if err != nil {
		return fail(err)
	}
	var seen []byte
	for name := range bytes.SplitAfterSeq(names[:n], []byte{0}) {
		if string(name) != owners.Xattr+"\x00" {
			seen = append(seen, name...)
		}
	}
	size := r.args[2]
	switch {
	case size == 0:
	case size < uint64(len(seen)):
		return fail(unix.ERANGE)
	default:
		if err := r.write(r.args[1], seen); err != nil {
			return fail(err)
		}
	}
	return value(uint32(len(seen)))
}
