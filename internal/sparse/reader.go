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

// NewReader returns what reads f, which stands at its start, without reading its holes. st is what stat(2) says of it: a file without holes is read as it is.
func NewReader(f *os.File, st *unix.Stat_t) io.Reader {
	if st.Size-st.Blocks*512 < block {
		return f
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil || !slices.Contains(trusted, int64(s.Type)) {
		return f
	}
	return &reader{f: f}
}

// A reader knows of a range of the file that it is a hole, or that it is none.
type reader struct {
	f    *os.File
	at   int64
	end  int64 // of the range
	hole bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
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
	n := len(p)
	if r.hole {
		clear(p)
	} else {
		var err error
		if n, err = r.f.ReadAt(p, r.at); n == 0 {
			return 0, err
		}
	}
	r.at += int64(n)
	return n, nil
}

// look finds the range that begins here. At the end of the file that is io.EOF.
func (r *reader) look() error {
	data, err := unix.Seek(int(r.f.Fd()), r.at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // there is no more
		fi, err := r.f.Stat()
		if err == nil && fi.Size() <= r.at {
			err = io.EOF
		}
		if err != nil {
			return err
		}
		r.hole, r.end = true, fi.Size()
		return nil
	}
	if err == nil && data > r.at {
		r.hole, r.end = true, data
		return nil
	}
	r.hole = false
	if err == nil {
		r.end, err = unix.Seek(int(r.f.Fd()), r.at, unix.SEEK_HOLE)
	}
	if err != nil || r.end <= r.at { // all of it is read
		r.end = math.MaxInt64
	}
	return nil
}
