package sparse

import (
	"errors"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// trusted are the file systems whose word is taken for where a file has holes, even right after it was written: ext4, xfs, btrfs and tmpfs look at what
// is not on the disk yet. Others have been wrong about that (zfs), and nobody would notice: their holes are read.
var trusted = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC}

// NewReader returns what reads the file that fd is open for from its start, without reading its holes, and gives io.EOF with its last bytes. st is what stat(2) says of
// it. It makes no more system calls than it must, since there may be hundreds of thousands of files. Where fd stands does not matter, and may change.
func NewReader(fd int, st *unix.Stat_t) io.Reader {
	r := &reader{fd: fd, end: math.MaxInt64, size: st.Size}
	if st.Size-st.Blocks*512 < block {
		return r
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err == nil && slices.Contains(trusted, int64(s.Type)) {
		r.end = 0
	}
	return r
}

// A reader knows of a range of the file that it is a hole, or that it is none.
type reader struct {
	fd   int
	size int64 // as far as it is known
	at   int64
	end  int64 // of the range
	hole bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.at == r.end {
		if err := r.look(); err != nil {
			return 0, err
		}
	}
	if left := r.end - r.at; int64(len(p)) > left {
		p = p[:left]
	}
	if r.hole {
		n = len(p)
		clear(p)
	} else if n, err = r.pread(p); err != nil {
		return 0, err
	}
	r.at += int64(n)
	if n == 0 || n < len(p) && r.at == r.size {
		return n, io.EOF
	}
	return n, nil
}

func (r *reader) pread(p []byte) (int, error) {
	for {
		n, err := unix.Pread(r.fd, p, r.at)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// look finds the range that begins here. At the end of the file that is io.EOF.
func (r *reader) look() error {
	data, err := unix.Seek(r.fd, r.at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // there is no more
		var st unix.Stat_t
		if err := unix.Fstat(r.fd, &st); err != nil {
			return os.NewSyscallError("stat", err)
		}
		if st.Size <= r.at {
			return io.EOF
		}
		r.hole, r.end = true, st.Size
		return nil
	}
	if err == nil && data > r.at {
		r.hole, r.end = true, data
		return nil
	}
	r.hole = false
	if err == nil {
		r.end, err = unix.Seek(r.fd, r.at, unix.SEEK_HOLE)
	}
	if err != nil || r.end <= r.at { // all of it is read
		r.end = math.MaxInt64
	}
	return nil
}
