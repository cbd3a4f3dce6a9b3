package sandbox

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeUser gives up every privilege that the plan does not grant. It speaks to the kernel for
// this thread alone, the one that will exec, where the functions of package unix would gather all threads.
func (p *plan) becomeUser() error {
	s := p.Spec
	if err := freshKeyring(); err != nil {
		return fmt.Errorf("new session keyring: %w", err)
	}
	s.ownPipes()
	if s.NewPrivileges {
		// A filter takes no_new_privs, or the CAP_SYS_ADMIN that is about to go. It lets all that follows pass.
		if err := p.confine(); err != nil {
			return fmt.Errorf("filter system calls: %w", err)
		}
	}
	mask, err := capMask(s.Caps)
	if err != nil {
		return err
	}
	// Without CAP_SETPCAP, which a chroot may lack, no_new_privs alone keeps exec from regaining anything.
	if err := dropBounding(mask); err != nil && !(s.Chroot && err == unix.EPERM) {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if s.Privileged {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("keep capabilities: %w", err)
		}
	}
	if !s.OneUID {
		err = s.setIDs()
	} else if s.UID != 0 && !s.Privileged {
		mask = 0 // as the change to another user would have left it
	}
	if err != nil {
		return err
	}
	// The change to a user other than root has left no capability to set, unless they were kept.
	if err := setCaps(mask, s.Privileged); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if s.NewPrivileges {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// setIDs changes to the user and the groups of the plan.
func (s *Spec) setIDs() error {
	if err := s.setGroups(); err != nil {
		return fmt.Errorf("set groups %v: %w", s.Groups, err)
	}
	gid, uid := uintptr(s.GID), uintptr(s.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("become group %d: %w", gid, unmapped(errno))
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("become user %d: %w", uid, unmapped(errno))
	}
	return nil
}

// freshKeyring leaves the caller's keys behind.
func freshKeyring() error {
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno == 0 || errno == unix.ENOSYS || errno == unix.EPERM {
		return nil // a kernel, or a container around us, that has no keys to give
	}
	return errno
}

// ownPipes gives the standard streams that are unnamed pipes to the user of the plan, so
// that /dev/stderr can be opened. Everything else among them may be the caller's file or terminal.
func (s *Spec) ownPipes() {
	const pipeFS = 0x50495045
	for fd := range 3 {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == pipeFS {
			unix.Fchown(fd, int(s.UID), int(s.GID)) // where ids are not mapped, nobody needs it
		}
	}
}

func (s *Spec) setGroups() error {
	var list unsafe.Pointer
	if len(s.Groups) > 0 {
		list = unsafe.Pointer(&s.Groups[0]) // gid_t is 32 bits wide
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.Groups)), uintptr(list), 0)
	none := len(s.Groups) == 0 || len(s.Groups) == 1 && s.Groups[0] == s.GID
	if errno == unix.EPERM && none && (s.Chroot || setGroupsDenied()) { // a chroot has no /proc to ask
		return nil // the caller's groups stay; they are not mapped, and can only take rights away
	}
	if errno != 0 {
		return unmapped(errno)
	}
	return nil
}

// setGroupsDenied reports whether this user namespace was made without the right to call setgroups.
func setGroupsDenied() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && string(b) == "deny\n"
}

// unmapped explains the error of a change to an id.
func unmapped(errno unix.Errno) error {
	if errno == unix.EINVAL {
		return fmt.Errorf("not mapped in this user namespace: %w", errno)
	}
	return errno
}
