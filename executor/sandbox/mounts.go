package sandbox

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/owners"
)

// openFS begins a new file system of type name. Options are as for mount(8): "key=value" or "flag".
func openFS(name string, options ...string) (fs int, err error) {
	fs, err = unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for _, o := range options {
		if key, value, ok := strings.Cut(o, "="); ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, o)
		}
		if err != nil {
			err = explain(fs, fmt.Errorf("option %s: %w", o, err))
			unix.Close(fs)
			return -1, err
		}
	}
	return fs, nil
}

// createFS makes the file system that openFS began and returns a mount of it, attached nowhere yet.
func createFS(fs, attrs int) (mnt int, err error) {
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, explain(fs, err)
	}
	mnt, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, explain(fs, err)
	}
	return mnt, nil
}

// newFS is openFS and createFS.
func newFS(name string, attrs int, options ...string) (mnt int, err error) {
	fs, err := openFS(name, options...)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	return createFS(fs, attrs)
}

// explain adds to err what the kernel has to say about the file system being made.
func explain(fs int, err error) error {
	b := make([]byte, 1024)
	n, _ := unix.Read(fs, b)
	if n <= 0 {
		return err
	}
	_, text, _ := strings.Cut(string(b[:n]), " ") // after "e", "w" or "i"
	return fmt.Errorf("%s: %w", strings.TrimSpace(text), err)
}

// A tree is a descriptor of the root being built. Paths in it are resolved as if it
// were the root already, so no link in it leads out.
type tree int

// A kind is what a place in the tree has to be.
type kind uint32

const (
	folder kind = unix.S_IFDIR
	file   kind = unix.S_IFREG
)

const (
	inTree = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	strict = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS // magic links are symbolic links too
)

// open opens name as a place (O_PATH).
func (t tree) open(name string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(int(t), name, &how)
		// EAGAIN: a rename elsewhere on the host made the kernel unsure about a "..".
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// place opens name, which is made if it is missing, with all that leads to it.
func (t tree) place(name string, k kind) (int, error) {
	return t.placeAt(name, k, 40)
}

// placeAt is place, following at most that many links which point at nothing yet.
func (t tree) placeAt(name string, k kind, links int) (int, error) {
	fd, err := t.open(name, inTree)
	if err != unix.ENOENT {
		return fd, err
	}
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if dir == "" {
		dir = "/"
	}
	parent, parentErr := t.placeAt(dir, folder, links)
	if parentErr != nil {
		return -1, parentErr
	}
	defer unix.Close(parent)
	if isProc(parent) {
		return -1, err // nothing can be made there, and what changed since is a magic link of ours
	}
	link := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(parent, base, link); err == nil {
		if links == 0 {
			return -1, unix.ELOOP
		}
		to := string(link[:n])
		if !path.IsAbs(to) {
			to = dir + to // not cleaned: what ".." means is for the kernel to say
		}
		return t.placeAt(to, k, links-1)
	}
	// "." and ".." are there since their parent is.
	if err := makePlace(parent, base, k); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return t.open(name, inTree)
}

func isProc(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

func makePlace(parent int, base string, k kind) error {
	if k == folder {
		return unix.Mkdirat(parent, base, 0o755)
	}
	return unix.Mknodat(parent, base, unix.S_IFREG|0o644, 0)
}

// attachMount carries out m, made by Mount.open as mnt.
func (t tree) attachMount(m Mount, mnt int) error {
	k, err := kindOf(mnt)
	if err != nil {
		return err
	}
	place, err := t.place(m.Target, k)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	return attach(mnt, place)
}

// open makes what m puts into the root, attached nowhere yet. The folder stage is where it is
// put together: older kernels copy mounts only from where they can be seen.
func (m *Mount) open(stage string) (mnt int, err error) {
	var attrs uint64
	if m.ReadOnly {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	switch m.Type {
	case MountTmpfs:
		return m.tmpfs(int(attrs))
	case MountFile:
		return m.file(stage, attrs|noPrograms)
	case MountOverlay:
		overlay := *m.Overlay
		overlay.Target = stage
		fd, err := overlay.mount()
		if err != nil {
			return -1, err
		}
		defer unix.Unmount(stage, unix.MNT_DETACH)
		defer unix.Close(fd)
		return copyBelow(fd, m.Path, attrs|unix.MOUNT_ATTR_NODEV)
	}
	fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if k, err := kindOf(fd); err != nil || k == folder { // a device is given by its own name only
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	if m.NoExec {
		attrs |= unix.MOUNT_ATTR_NOEXEC
	}
	if m.NoSUID {
		attrs |= unix.MOUNT_ATTR_NOSUID
	}
	return copyBelow(fd, m.Path, attrs)
}

// noPrograms is what mounts without programs and devices have.
const noPrograms = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

func (m *Mount) tmpfs(attrs int) (int, error) {
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{fmt.Sprintf("mode=%o", mode)}
	if m.Size > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.Size))
	}
	if m.NoExec {
		attrs |= unix.MOUNT_ATTR_NOEXEC
	}
	return newFS("tmpfs", attrs|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, options...)
}

// file makes a file system for one file, and returns a mount of just the file.
func (m *Mount) file(stage string, attrs uint64) (int, error) {
	mnt, err := newFS("tmpfs", noPrograms, "mode=700", "nr_inodes=3") // a mark counts for one
	if err != nil {
		return -1, err
	}
	defer unix.Close(mnt)
	place, err := unix.Open(stage, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(place)
	if err := attach(mnt, place); err != nil {
		return -1, err
	}
	defer unix.Unmount(stage, unix.MNT_DETACH)
	const name = "file"
	fd, err := unix.Openat(mnt, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	for b := m.Content; len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			return -1, err
		}
		b = b[n:]
	}
	err = owners.Chown(fmt.Sprintf("/proc/self/fd/%d", fd), m.UID, m.GID)
	if err == unix.ENOTSUP && owners.OneID() {
		err = nil // before Linux 6.6 it can carry no mark; with one id every process may use it as its owner does
	}
	if err != nil {
		return -1, fmt.Errorf("owner %d:%d: %w", m.UID, m.GID, err)
	}
	if err := unix.Fchmod(fd, m.Mode); err != nil {
		return -1, err
	}
	return copyMounts(mnt, name, attrs)
}

// copyBelow is copyMounts for a path below dir. Links are followed unless they lead out of dir.
func copyBelow(dir int, path string, attrs uint64) (mnt int, err error) {
	if path == "" {
		return copyMounts(dir, "", attrs)
	}
	fd, err := tree(dir).open(path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if err == unix.EXDEV {
		return -1, fmt.Errorf("%s: a link leads out of it: %w", path, err)
	}
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	return copyMounts(fd, "", attrs)
}

// copyMounts returns a copy of the mounts at path (of the descriptor dir itself if path is "")
// and below, attached nowhere, with attrs added. What is mounted there later does not show in it.
func copyMounts(dir int, path string, attrs uint64) (mnt int, err error) {
	mnt, err = unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, err
	}
	err = unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE})
	if err != nil {
		unix.Close(mnt)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return mnt, nil
}

// kindOf returns what fd is, taking all but folders as files.
func kindOf(fd int) (kind, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return folder, nil
	}
	return file, nil
}

// attach puts the mount mnt on place.
func attach(mnt, place int) error {
	return unix.MoveMount(mnt, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// cover attaches mnt, and closes it, on name, which must be there and no link.
func (t tree) cover(name string, mnt int) error {
	defer unix.Close(mnt)
	place, err := t.open(name, strict)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	return attach(mnt, place)
}

// protectRoot makes the root read-only, but not what is mounted in it.
func (t tree) protectRoot() error {
	return unix.MountSetattr(int(t), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
