package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// devices are those of the host that a sandbox shares: none of them holds anything.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// devLinks are the symbolic links of /dev.
var devLinks = []struct{ name, to string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
	{"ptmx", "pts/ptmx"},
}

func devFS() (mnt int, err error) {
	return newFS("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "mode=755", "size=64m")
}

// fillDev makes what is in /dev.
func (t tree) fillDev(shm int64) error {
	if shm == 0 {
		shm = 64 << 20
	}
	fd, err := t.open("/dev", strict)
	if err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	defer unix.Close(fd)
	dev := tree(fd)
	for _, l := range devLinks {
		if err := unix.Symlinkat(l.to, fd, l.name); err != nil {
			return fmt.Errorf("/dev/%s: %w", l.name, err)
		}
	}
	for _, name := range devices {
		if err := dev.shareDevice(name); err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	for _, m := range []struct {
		name string
		make func() (int, error)
	}{
		{"pts", ptsFS},
		{"shm", func() (int, error) { return newFS("tmpfs", quiet, "mode=1777", fmt.Sprintf("size=%d", shm)) }},
		{"mqueue", func() (int, error) { return newFS("mqueue", quiet) }},
	} {
		mnt, err := m.make()
		if errors.Is(err, unix.ENODEV) {
			continue // a kernel without POSIX queues
		}
		if err == nil {
			err = dev.mountFolder(m.name, mnt)
		}
		if err != nil {
			return fmt.Errorf("/dev/%s: %w", m.name, err)
		}
	}
	return nil
}

// shareDevice makes the host's device of that name appear. It is a mount because the root of a user
// namespace may not make device nodes.
func (t tree) shareDevice(name string) error {
	if err := unix.Mknodat(int(t), name, unix.S_IFREG|0o666, 0); err != nil {
		return err
	}
	mnt, err := copyMounts(unix.AT_FDCWD, "/dev/"+name, 0)
	if err != nil {
		return err
	}
	return t.cover(name, mnt)
}

// ptsFS makes pseudo terminals of our own, which belong to group 5 (tty) as everywhere, unless
// the user namespace has no such group.
func ptsFS() (mnt int, err error) {
	options := []string{"newinstance", "ptmxmode=0666", "mode=0620"}
	mnt, err = newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, append(options, "gid=5")...)
	if errors.Is(err, unix.EINVAL) {
		return newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, options...)
	}
	return mnt, err
}
