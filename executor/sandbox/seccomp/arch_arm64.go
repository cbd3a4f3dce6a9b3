package seccomp

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_AARCH64
	compatArch = unix.AUDIT_ARCH_ARM

	// Columns of syscalls.tbl.
	nativeColumn = 3
	compatColumn = 4
)
