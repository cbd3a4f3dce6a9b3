package oneuid

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// A fileID names a file for as long as it exists: by its inode, and by the time that was made, since numbers
// are used again. dev is 0 for the root's file system.
type fileID struct {
	dev, inode  uint64
	born        int64
	bornSeconds int64
}

// maxTable bounds what a sandbox can make us remember: some 100 MB.
const maxTable = 1 << 20

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func (s *Supervisor) fileID(st *unix.Statx_t) fileID {
	dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
	if dev == s.rootDev {
		dev = 0
	}
	return fileID{dev, st.Ino, int64(st.Btime.Nsec), st.Btime.Sec}
}

// mark returns what the place fd should be.
func (s *Supervisor) mark(fd int) owners.Mark { return s.markAt(selfFD(fd)) }

// markAt is mark for the path of a descriptor in /proc.
func (s *Supervisor) markAt(proc string) owners.Mark {
	if m := owners.Read(proc); !m.IsZero() {
		return m
	}
	if len(s.table) == 0 && len(s.cfg.Links) == 0 {
		return owners.Mark{}
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, proc, 0, statMask, &st); err != nil {
		return owners.Mark{}
	}
	if m, ok := s.table[s.fileID(&st)]; ok {
		return m
	}
	if len(s.cfg.Links) == 0 || !linkLike(uint32(st.Mode)) || !s.older(&st) {
		return owners.Mark{}
	}
	name, err := s.nameOf(proc)
	if err != nil {
		return owners.Mark{}
	}
	return s.cfg.Links[name]
}

// nameOf returns the path in the sandbox, without leading slash, of the file that a descriptor in /proc leads to.
func (s *Supervisor) nameOf(proc string) (string, error) {
	name, err := os.Readlink(proc)
	return strings.TrimPrefix(strings.TrimPrefix(name, s.rootName), "/"), err
}

// linkLike reports whether a file is of a type that layers have and that can carry no mark.
func linkLike(mode uint32) bool {
	return mode&unix.S_IFMT == unix.S_IFLNK || mode&unix.S_IFMT == unix.S_IFIFO
}

// older reports whether a file was there before the sandbox.
func (s *Supervisor) older(st *unix.Statx_t) bool {
	return time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)).Before(s.cfg.Began)
}

// Tick returns a time that is after those of all files made before, and not after those of files made later. It waits for it:
// file systems take times from a clock that moves every few milliseconds.
func Tick() (time.Time, error) {
	first, err := coarse()
	for now := first; ; now, err = coarse() {
		if err != nil || now != first {
			return time.Unix(now.Unix()), err
		}
		time.Sleep(time.Millisecond)
	}
}

func coarse() (now unix.Timespec, err error) {
	err = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now)
	return now, err
}

// setMark says what the place fd should be.
func (s *Supervisor) setMark(fd int, m owners.Mark) error {
	proc := selfFD(fd)
	err := owners.Write(proc, m)
	if err != unix.EPERM && err != unix.ENOTSUP {
		return err
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, proc, 0, statMask, &st); err != nil {
		return err
	}
	if len(s.table) >= maxTable {
		return unix.ENOSPC
	}
	s.table[s.fileID(&st)] = m
	// A link that was copied up may have another inode once the kernel has forgotten the old one.
	if name, err := s.nameOf(proc); err == nil && linkLike(uint32(st.Mode)) {
		var upper unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, filepath.Join(s.cfg.Upper, name), unix.AT_SYMLINK_NOFOLLOW, statMask, &upper) == nil {
			s.table[s.upperID(&upper)] = m
		}
	}
	return nil
}

// upperID returns the fileID that a file of the upper directory has inside.
func (s *Supervisor) upperID(st *unix.Statx_t) fileID {
	id := s.fileID(st)
	id.dev = 0
	return id
}

// LinkOwner returns, after Wait, the owner of a symbolic link or a pipe in the upper directory, where its path
// is name. The file is base in the folder dir.
func (s *Supervisor) LinkOwner(dir int, base, name string) (owners.Mark, error) {
	if len(s.table) == 0 && len(s.cfg.Links) == 0 {
		return owners.Mark{}, nil
	}
	var st unix.Statx_t
	if err := unix.Statx(dir, base, unix.AT_SYMLINK_NOFOLLOW, statMask, &st); err != nil {
		return owners.Mark{}, err
	}
	m, ok := s.table[s.upperID(&st)]
	if !ok && s.older(&st) {
		m = s.cfg.Links[name] // of the tree below, copied up for another reason
	}
	return m, nil
}

func (r *request) chownPath(dir int, address, uid, gid uint64, flags int) reply {
	name, err := r.string(address)
	if err != nil {
		return fail(err)
	}
	fd, err := r.findOr(dir, name, flags)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	return end(r.chown(fd, uint32(uid), uint32(gid)))
}

// findOr is find, and findOwn for what only the process itself can find.
func (r *request) findOr(dir int, name string, flags int) (int, error) {
	fd, err := r.find(dir, name, flags)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return r.findOwn(name, flags, err)
	}
	return fd, err
}

// findOwn finds a descriptor of the process itself that name leads to, like /dev/stdout. Its /proc/self would be
// ours, and its magic links are not for us to follow.
func (r *request) findOwn(name string, flags int, failed error) (int, error) {
	number, ok := map[string]string{"/dev/stdin": "0", "/dev/stdout": "1", "/dev/stderr": "2"}[name]
	for _, prefix := range []string{"/proc/self/fd/", "/dev/fd/"} {
		if n, found := strings.CutPrefix(name, prefix); found {
			number, ok = n, true
		}
	}
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		return -1, failed
	}
	return r.place(n)
}

func (r *request) fchown() reply {
	fd, err := r.place(r.int(0))
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	return end(r.chown(fd, r.id(1), r.id(2)))
}

// chown gives the place fd to uid and gid, where they are not -1.
func (r *request) chown(fd int, uid, gid uint32) error {
	if err := r.alive(); err != nil {
		return err
	}
	m := r.mark(fd)
	if c := r.creds(); !c.capable() {
		own := c.uid.fs == m.UID
		if uid != none && !(own && uid == m.UID) || gid != none && !(own && (gid == m.GID || c.member(gid))) {
			return unix.EPERM
		}
	}
	// The kernel's part: a lower file is copied up, set-user-ID bits and capabilities go, the change
	// has a time, and what cannot be changed is not. It is asked for the owner that everything has.
	if err := unix.Fchownat(fd, "", onlyID(uid), onlyID(gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	old := m
	change(&m.UID, uid)
	change(&m.GID, gid)
	if m == old {
		return nil
	}
	return r.setMark(fd, m)
}

// keepLink remembers the owner of a link or pipe by the file itself, before the process changes it.
func (r *request) keepLink(dir int, address uint64) reply {
	if address == 0 {
		return proceed
	}
	name, err := r.string(address)
	if err != nil {
		return proceed
	}
	fd, err := r.find(dir, name, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return proceed
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || !linkLike(st.Mode) {
		return proceed
	}
	// The change of owner that is none copies it up.
	if m := r.mark(fd); !m.IsZero() && r.alive() == nil && unix.Fchownat(fd, "", 0, 0, unix.AT_EMPTY_PATH) == nil {
		r.setMark(fd, m)
	}
	return proceed
}

// onlyID returns the id that there is, or -1 for none.
func onlyID(id uint32) int {
	if id == none {
		return -1
	}
	return 0
}

func (r *request) statPath(dir int, address, buf uint64, flags int) reply {
	fd, ok := r.marked(dir, address, flags)
	if !ok {
		return proceed
	}
	defer unix.Close(fd)
	return r.statPlace(fd, buf)
}

// marked opens what a path of the process leads to, if it is something that stat must not tell about
// as it is. An error is for the kernel to find again.
func (r *request) marked(dir int, address uint64, flags int) (int, bool) {
	var name string
	if address != 0 || flags&unix.AT_EMPTY_PATH == 0 { // null means "" since Linux 6.11
		var err error
		if name, err = r.string(address); err != nil {
			return -1, false
		}
	}
	if name == "" && dir >= 0 {
		if flags&unix.AT_EMPTY_PATH == 0 || r.markAt(r.procFD(dir)).IsZero() {
			return -1, false
		}
	}
	fd, err := r.findOr(dir, name, flags)
	if err != nil {
		return -1, false
	}
	if r.mark(fd).IsZero() {
		unix.Close(fd)
		return -1, false
	}
	return fd, true
}

func (r *request) fstat() reply {
	fd := r.int(0)
	if fd < 0 || r.markAt(r.procFD(fd)).IsZero() {
		return proceed
	}
	own, err := r.place(fd)
	if err != nil {
		return proceed
	}
	defer unix.Close(own)
	return r.statPlace(own, r.args[1])
}

// statPlace answers stat for the place fd.
func (r *request) statPlace(fd int, buf uint64) reply {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail(err)
	}
	m := r.mark(fd)
	st.Uid, st.Gid = m.UID, m.GID
	if m.Type != 0 {
		st.Mode = st.Mode&^unix.S_IFMT | m.Type
		st.Rdev = unix.Mkdev(m.Major, m.Minor)
		st.Size, st.Blocks = 0, 0
	}
	return end(r.write(buf, unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))))
}

func (r *request) statx() reply {
	flags := r.int(2)
	fd, ok := r.marked(r.int(0), r.args[1], flags)
	if !ok {
		return proceed
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	const sync = unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|flags&sync, r.int(3), &st); err != nil {
		return fail(err)
	}
	m := r.mark(fd)
	st.Uid, st.Gid = m.UID, m.GID
	if m.Type != 0 {
		st.Mode = st.Mode&^unix.S_IFMT | uint16(m.Type)
		st.Rdev_major, st.Rdev_minor = m.Major, m.Minor
		st.Size, st.Blocks = 0, 0
	}
	return end(r.write(r.args[4], unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))))
}
