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

// mountSystem mounts /proc, /sys and /dev, which every Linux program expects. shm is the size of /dev/shm.
func (t tree) mountSystem(shm int64) error {
	for _, m := range []struct {
		name string
		make func() (int, error)
	}{
		{"/proc", procFS},
		{"/sys", sysFS},
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
	if err := t.fillDev(shm); err != nil {
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
func sysFS() (mnt int, err error) {
	mnt, err = newFS("sysfs", quiet|unix.MOUNT_ATTR_RDONLY)
	if errors.Is(err, unix.EPERM) {
		// The network namespace belongs to somebody else, or parts of the host's sysfs are masked.
		return copyMounts(unix.AT_FDCWD, "/sys", quiet|unix.MOUNT_ATTR_RDONLY)
	}
	return mnt, err
}

// protect makes name read-only if it exists, by a read-only mount of itself.
func (t tree) protect(name string) error {
	return t.shield(name, func(place int) (mnt int, err error) { return copyMounts(place, "", unix.MOUNT_ATTR_RDONLY) })
}

// mask covers name, if it exists, with something empty of its kind.
func (t tree) mask(name string) error {
	return t.shield(name, func(place int) (mnt int, err error) {
		k, err := kindOf(place)
		switch {
		case err != nil:
			return -1, err
		case k == folder:
			return newFS("tmpfs", quiet|unix.MOUNT_ATTR_RDONLY, "size=4k", "mode=755")
		}
		return copyMounts(unix.AT_FDCWD, "/dev/null", 0)
	})
}

// shield attaches the mount that make returns for a place to that place, if name exists.
func (t tree) shield(name string, make func(place int) (mnt int, err error)) error {
	place, err := t.open(name, strict)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	mnt, err := make(place)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return attach(mnt, place)
}
