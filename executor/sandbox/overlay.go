package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
		names[i] = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	upper, work, lower := names[0], names[1], names[2:]
	err = mountOverlay(r.Target, upper, work, lower)
	if errors.Is(err, errNoLowerAdd) {
		err = mountOverlayOld(r.Target, upper, work, lower)
	}
	if err != nil {
		return -1, err
	}
	return unix.Open(r.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// errNoLowerAdd says that the kernel is older than 6.7.
var errNoLowerAdd = errors.New("lowerdir+ is not known")

// mountOverlay takes as many lower trees as the kernel does: 500.
func mountOverlay(target, upper, work string, lower []string) error {
	fs, err := openFS("overlay", slices.Concat(overlayOptions, []string{"upperdir=" + upper, "workdir=" + work})...)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for i, dir := range lower {
		err := unix.FsconfigSetString(fs, "lowerdir+", dir)
		if err == unix.EINVAL && i == 0 {
			return errNoLowerAdd
		}
		if err != nil {
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

// mountOverlayOld takes as many lower trees as fit on a page, some 200.
func mountOverlayOld(target, upper, work string, lower []string) error {
	layers := []string{"upperdir=" + upper, "workdir=" + work, "lowerdir=" + strings.Join(lower, ":")}
	data := strings.Join(slices.Concat(overlayOptions, layers), ",")
	if len(data) >= unix.Getpagesize() {
		return fmt.Errorf("%d lower trees are too many for this kernel (Linux 6.7 takes 500)", len(lower))
	}
	return unix.Mount("overlay", target, "overlay", unix.MS_NODEV, data)
}
