package sandbox

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Scoped reports whether the kernel can keep a process without namespaces from others (Linux 6.12), see scopeRules.
func Scoped() bool {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0 && abi >= 6
}

// scopeRules returns rules (landlock(7)) that keep a process, and all that it starts, from sending signals to processes that are
// outside, from tracing them, and from connecting to their abstract sockets. It is nil where the kernel has no such rules.
func scopeRules() (*os.File, error) {
	if !Scoped() {
		return nil, nil
	}
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, fmt.Errorf("landlock: %w", errno)
	}
	return os.NewFile(rules, "landlock"), nil
}
