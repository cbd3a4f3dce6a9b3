package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// quiet are the attributes of a mount that no program is started from.
const quiet = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// As in Docker, what tells about the host or reaches its hardware appears empty, and what changes the host is read-only.
var (
	hiddenProc   = []string{"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"}
	readOnlyProc = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
	hiddenSys    = []string{"devices/virtual/powercap", "firmware"}
)

// systemFolders are those that every Linux program expects.
var systemFolders = []string{"/sys", "/dev", "/proc"}

// mountSystem mounts them.
func (st *stage) mountSystem(sp Space) error {
	if err := st.system.mountNew("/sys", func() (int, error) { return sysFS(sp.Privileged) }); err != nil {
		return err
	}
	if !sp.Privileged {
		if err := st.system.hideAll("/sys/", hiddenSys); err != nil {
			return err
		}
	}
	if err := st.system.mountNew("/dev", devFS); err != nil {
		return err
	}
	if err := st.system.fillDev(sp.ShmSize); err != nil {
		return err
	}
	if !newProc() {
		return st.system.keepProc(sp.Privileged)
	}
	return st.prepareProc()
}

// mountNew mounts what create returns on a folder of the root.
func (t tree) mountNew(name string, create func() (int, error)) error {
	mnt, err := create()
	if err == nil {
		err = t.mountFolder(name, mnt)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
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

// prepareProc makes ready what the child will mount. Until then, /proc is an empty folder in which nothing can be made.
func (st *stage) prepareProc() (err error) {
	err = st.system.mountNew("/proc", func() (int, error) { return emptyFS(unix.MOUNT_ATTR_RDONLY) })
	if err != nil {
		return err
	}
	if st.proc, err = st.system.open("/proc", strict); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, name := range hiddenProc {
		k, ok := procKind(name)
		if !ok {
			continue
		}
		mnt, err := emptyOf(k)
		if err != nil {
			return fmt.Errorf("hide /proc/%s: %w", name, err)
		}
		st.masks = append(st.masks, mask{"/proc/" + name, mnt})
	}
	return nil
}

// procKind returns what this kernel has of that name in any /proc, if it has it.
func procKind(name string) (kind, bool) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+name, &st); err != nil {
		return 0, false
	}
	return kind(st.Mode & unix.S_IFMT), true
}

// keepProc mounts the /proc that we have ourselves. It names processes by other pids, and shows no more than we can see.
func (t tree) keepProc(privileged bool) error {
	err := t.mountNew("/proc", func() (int, error) { return copyMounts(unix.AT_FDCWD, "/proc", quiet) })
	if err != nil || privileged {
		return err
	}
	for _, name := range readOnlyProc {
		if err := t.protect("/proc/" + name); err != nil {
			return err
		}
	}
	return t.hideAll("/proc/", hiddenProc)
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
	return t.change("make read-only", name, func(place int) (int, error) {
		return copyMounts(place, "", unix.MOUNT_ATTR_RDONLY)
	})
}

// hideAll hides names below dir.
func (t tree) hideAll(dir string, names []string) error {
	for _, name := range names {
		if err := t.hide(dir + name); err != nil {
			return err
		}
	}
	return nil
}

// hide covers name, if it exists, with something empty of its kind.
func (t tree) hide(name string) error {
	return t.change("hide", name, func(place int) (int, error) {
		k, err := kindOf(place)
		if err != nil {
			return -1, err
		}
		return emptyOf(k)
	})
}

// change attaches what create returns on name, if that exists; what says what for.
func (t tree) change(what, name string, create func(place int) (mnt int, err error)) error {
	place, err := t.open(name, strict)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		defer unix.Close(place)
		var mnt int
		if mnt, err = create(place); err == nil {
			defer unix.Close(mnt)
			err = attach(mnt, place)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, name, err)
	}
	return nil
}

// emptyOf returns a mount of nothing, of that kind.
func emptyOf(k kind) (mnt int, err error) {
	if k == folder {
		return emptyFS(unix.MOUNT_ATTR_RDONLY)
	}
	return copyMounts(unix.AT_FDCWD, "/dev/null", 0)
}

func emptyFS(attrs int) (mnt int, err error) {
	return newFS("tmpfs", quiet|attrs, "size=4k", "mode=755")
}
