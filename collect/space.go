package collect

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A Space says how much a store may take, in bytes, as BuildKit's options of the same names do. 0 says nothing.
type Space struct {
	// Reserved is what the store may always take.
	Reserved int64
	// MaxUsed is what it may take; of Reserved and MaxUsed the larger one counts.
	MaxUsed int64
	// MinFree is what the file system is to have free: as much as is missing goes.
	MinFree int64
}

// keep returns how much a store may take that takes total, on a file system with so much free.
func (s Space) keep(total, free int64) int64 {
	keep := s.MaxUsed
	missing := s.MinFree - free
	switch {
	case missing > 0 && keep > 0:
		keep = min(keep, total-missing)
	case missing > 0:
		keep = total - missing
	case s.MinFree > 0 && keep == 0: // there is enough
		keep = total
	}
	return max(keep, s.Reserved, 0)
}

// free returns how much of the file system of a folder is not in use.
func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bfree) * st.Bsize, nil
}
