package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// overlayOptions are the same with and without root, so that an upper directory has
// one form: userxattr, the one that ordinary users can read and write. It implies
// that neither redirects nor metadata-only copies are made, which a layer could not express.
//
// volatile: nothing of an upper is kept after a crash, and syncing it costs seconds.
var overlayOptions = []string{"userxattr", "volatile", "index=off"}

// A root is mounted nodev: root of the host may make device files, and those of its disks must not open. The
// devices that a sandbox shares are mounts of their own.

// mountFlat mounts the folder Flat on Target and returns its root.
func (r *Root) mountFlat() (fd int, err error) {
	mnt, err := copyMounts(unix.AT_FDCWD, r.Flat, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, r.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, err
	}
	return unix.Open(r.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// mount mounts the overlay, or the folder, on Target and returns its root.
//
// Layers are named by descriptors: their paths need no escaping, stay short, and
// are not for the eyes of the process, which can read /proc/mounts.
func (r *Root) mount() (fd int, err error) {
	if r.Flat != "" {
		return r.mountFlat()
	}
	layers := append([]string{r.Upper, r.Work}, r.Lower...)
	names := make([]string, len(layers))
	for i, dir := range layers {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", dir, err)
		}
		defer unix.Close(fd)
		names[i] = fmt.Sprint(fd)
	}
	upper, work, lower := names[0], names[1], names[2:]
	if err := unix.Chdir("/proc/self/fd"); err != nil { // of this thread, which has unshared it with its mounts
		return -1, fmt.Errorf("folder of descriptors: %w", err)
	}
	mount := mountOverlayOld
	if lowerAdd() {
		mount = mountOverlay
	}
	if err := mount(r.Target, upper, work, lower); err != nil {
		return -1, err
	}
	return unix.Open(r.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// lowerAdd reports whether the kernel takes lower trees one by one (Linux 6.7). Before 6.5 it remembers every option that it is
// told, to refuse it when the mount is made.
var lowerAdd = sync.OnceValue(func() bool {
	fs, err := openFS("overlay")
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "lowerdir+", "/") == nil && unix.FsconfigSetString(fs, "unknown", "x") != nil
})

// mountOverlay takes as many lower trees as the kernel does: 500.
func mountOverlay(target, upper, work string, lower []string) error {
	fs, err := openFS("overlay", slices.Concat(overlayOptions, []string{"upperdir=" + upper, "workdir=" + work})...)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for i, dir := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", dir); err != nil {
			return fmt.Errorf("lower %d of %d: %w", i+1, len(lower), explain(fs, err))
		}
	}
	mnt, err := createFS(fs, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mountOverlayOld takes as many lower trees as fit on a page, some 800 by number, and the kernel takes 500.
func mountOverlayOld(target, upper, work string, lower []string) error {
	layers := []string{"upperdir=" + upper, "workdir=" + work, "lowerdir=" + strings.Join(lower, ":")}
	data := strings.Join(slices.Concat(overlayOptions, layers), ",")
	if len(data) >= unix.Getpagesize() {
		return fmt.Errorf("%d lower trees are too many", len(lower))
	}
	return unix.Mount("overlay", target, "overlay", unix.MS_NODEV, data)
}
