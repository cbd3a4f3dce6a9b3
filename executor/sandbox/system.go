package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// quiet are the attributes of a mount that no program is started from.
const quiet = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// masked holds what tells about the host or reaches its hardware; it appears empty. As in Docker.
var masked = []string{
	"/proc/acpi",
	"/proc/asound",
	"/proc/interrupts",
	"/proc/kcore",
	"/proc/keys",
	"/proc/latency_stats",
	"/proc/sched_debug",
	"/proc/scsi",
	"/proc/timer_list",
	"/proc/timer_stats",
	"/sys/devices/virtual/powercap",
	"/sys/firmware",
}

// readOnly holds the parts of /proc that change the host. As in Docker.
var readOnly = []string{
	"/proc/bus",
	"/proc/fs",
	"/proc/irq",
	"/proc/sys",
	"/proc/sysrq-trigger",
}

// mountSystem mounts /proc, /sys and /dev, which every Linux program expects.
func (t tree) mountSystem(s *Spec) error {
	for _, m := range []struct {
		name string
		make func() (int, error)
	}{
		{"/proc", procFS},
		{"/sys", func() (int, error) { return sysFS(s.Privileged) }},
		{"/dev", devFS},
	} {
		mnt, err := m.make()
		if err == nil {
			err = t.mountFolder(m.name, mnt)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.name, err)
		}
	}
	if err := t.fillDev(s.ShmSize); err != nil || s.Privileged {
		return err
	}
	for _, name := range readOnly {
		if err := t.protect(name); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	for _, name := range masked {
		if err := t.mask(name); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	return nil
}

// mountFolder attaches mnt, and closes it, on a folder that is made if the image has none. An
// image where it is a link is refused: what is protected below must be found under its own name.
func (t tree) mountFolder(name string, mnt int) error {
	if err := unix.Mkdirat(int(t), strings.TrimPrefix(name, "/"), 0o755); err != nil && err != unix.EEXIST {
		unix.Close(mnt)
		return err
	}
	return t.cover(name, mnt)
}

// procFS makes a proc for the new pid namespace.
func procFS() (mnt int, err error) {
	mnt, err = newFS("proc", quiet)
	if errors.Is(err, unix.EPERM) {
		// The kernel refuses a new proc to a container whose own has masked parts. The old one
		// names processes by other pids, and shows no more than we could see before.
		return copyMounts(unix.AT_FDCWD, "/proc", quiet)
	}
	return mnt, err
}

// sysFS makes a sysfs for our network namespace.
func sysFS(writable bool) (mnt int, err error) {
	attrs := quiet | unix.MOUNT_ATTR_RDONLY
	if writable {
		attrs = quiet
	}
	mnt, err = newFS("sysfs", attrs)
	if errors.Is(err, unix.EPERM) {
		// The network namespace belongs to somebody else, or parts of the host's sysfs are masked.
		return copyMounts(unix.AT_FDCWD, "/sys", uint64(attrs))
	}
	return mnt, err
}

// protect makes name read-only if it exists, by a read-only mount of itself.
func (t tree) protect(name string) error {
	place, err := t.open(name, strict)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	mnt, err := copyMounts(place, "", unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return attach(mnt, place)
}

// mask covers name, if it exists, with something empty of its kind.
func (t tree) mask(name string) error {
	place, err := t.open(name, strict)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	k, err := kindOf(place)
	if err != nil {
		return err
	}
	var mnt int
	if k == folder {
		mnt, err = newFS("tmpfs", quiet|unix.MOUNT_ATTR_RDONLY, "size=4k", "mode=755")
	} else {
		mnt, err = copyMounts(unix.AT_FDCWD, "/dev/null", 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return attach(mnt, place)
}
