package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// DefaultCaps returns the capabilities that Docker gives to a container.
func DefaultCaps() []string {
	return []string{
		"CAP_CHOWN",
		"CAP_DAC_OVERRIDE",
		"CAP_FSETID",
		"CAP_FOWNER",
		"CAP_MKNOD",
		"CAP_NET_RAW",
		"CAP_SETGID",
		"CAP_SETUID",
		"CAP_SETFCAP",
		"CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT",
		"CAP_KILL",
		"CAP_AUDIT_WRITE",
	}
}

// AllCaps returns every capability.
func AllCaps() []string { return slices.Clone(capNames) }

// ChangeCaps returns caps with some added and some dropped, as Docker does: names may lack their CAP_, and ALL
// stands for all. What is named by itself counts for more than ALL.
func ChangeCaps(caps, add, drop []string) ([]string, error) {
	add, addAll, err := parseCaps(add)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := parseCaps(drop)
	if err != nil {
		return nil, err
	}
	switch {
	case addAll:
		caps = AllCaps()
	case dropAll:
		caps = nil
	}
	caps = slices.DeleteFunc(slices.Clone(caps), func(c string) bool { return slices.Contains(drop, c) })
	for _, c := range add {
		if !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}

func parseCaps(names []string) (list []string, all bool, err error) {
	for _, name := range names {
		c := strings.ToUpper(name)
		if c == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(capNames, c) {
			return nil, false, fmt.Errorf("capability %q is not known", name)
		}
		list = append(list, c)
	}
	return list, all, nil
}

// capNames holds the name of every capability at its number.
var capNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// capMask returns the capabilities of that names as the bits of the kernel.
func capMask(names []string) (uint64, error) {
	var mask uint64
	for _, name := range names {
		n := slices.Index(capNames, name)
		if n < 0 {
			return 0, fmt.Errorf("capability %q is not known", name)
		}
		mask |= 1 << n
	}
	return mask, nil
}

// capCount returns how many capabilities this kernel has.
var capCount = sync.OnceValue(func() int {
	for n := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil {
			return n
		}
	}
	return 64
})
