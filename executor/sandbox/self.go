package sandbox

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// self returns a path of this program that a sandbox may be started from.
//
// It is not /proc/self/exe: a hostile image whose command is a script with the interpreter
// /proc/self/exe would run this program inside, could then open it for writing
// through /proc/1/exe, and so replace it on the host (CVE-2019-5736). Through a
// read-only mount, or as a sealed copy, nobody can write to it.
var self = sync.OnceValues(func() (string, error) {
	fd, err := readOnlySelf()
	if err != nil {
		if fd, err = sealedSelf(); err != nil {
			return "", fmt.Errorf("this program's own file: %w", err)
		}
	}
	// The numbers below belong to the child's streams and files.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 100)
	unix.Close(fd)
	if err != nil {
		return "", fmt.Errorf("this program's own file: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", high), nil
})

// readOnlySelf opens this program through a read-only mount that is attached nowhere.
func readOnlySelf() (int, error) {
	path, err := os.Executable()
	if err != nil {
		return -1, err
	}
	// Only a path leads to a mount of our namespace, and only those may be cloned: after
	// userns.Enter, /proc/self/exe is still one of the namespace before.
	fd, err := copyMounts(unix.AT_FDCWD, path, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, err
	}
	if err := sameAsSelf(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sameAsSelf returns an error if fd is not the file that this process was started from,
// as after an update of the program.
func sameAsSelf(fd int) error {
	var a, b unix.Stat_t
	if err := unix.Fstat(fd, &a); err != nil {
		return err
	}
	if err := unix.Stat("/proc/self/exe", &b); err != nil {
		return err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return unix.ESTALE
	}
	return nil
}

// sealedSelf copies this program to an unnamed file that nobody can change.
func sealedSelf() (int, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer exe.Close()
	fd, err := unix.MemfdCreate("build", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is new in Linux 6.3
		fd, err = unix.MemfdCreate("build", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	copied := os.NewFile(uintptr(fd), "build")
	defer copied.Close()
	if _, err := io.Copy(copied, exe); err != nil {
		return -1, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(copied.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, fmt.Errorf("seal: %w", err)
	}
	// A file that is open for writing cannot be executed.
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", copied.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}
