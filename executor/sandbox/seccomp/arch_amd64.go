package seccomp

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_X86_64
	compatArch = unix.AUDIT_ARCH_I386

	// Columns of syscalls.tbl.
	nativeColumn = 1
	compatColumn = 2
)
