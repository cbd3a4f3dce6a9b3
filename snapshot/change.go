package snapshot

import (
	"crypto/sha256"
	"io"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/sparse"
)

// An upper directory holds more than what a step has changed, and what more depends on the kernel: files that were
// opened for writing and left as they were, and marks on directories that hide nothing. Layers are without them,
// so that the same step makes the same layer where there is no overlay.

// unchanged reports whether the open file is what was there before. If not, e gets its digest where that is known by now.
func (c *capturer) unchanged(fd int, st *unix.Stat_t, e *Entry) (bool, error) {
	if c.below == nil || st.Nlink > 1 {
		return false, nil
	}
	old, ok, err := c.below.Lstat(e.Path)
	if err != nil || !ok || old.Type != Regular || old.Mode != e.Mode || old.UID != e.UID || old.GID != e.GID ||
		old.Mtime != e.Mtime || old.Size != e.Size || !maps.Equal(old.Xattrs, e.Xattrs) {
		return false, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, stoppable{c.ctx, sparse.NewReader(fd, st)}); err != nil {
		return false, err
	}
	h.Sum(e.Digest[:0])
	return e.Digest == old.Digest, nil
}

// removeUnseen removes a file from a folder that keeps its time.
func removeUnseen(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		return err
	}
	return unix.UtimesNanoAt(dir, ".", []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// opaque makes the open directory e one that hides what is below it, if it is marked so and if there is something.
func (c *capturer) opaque(fd int, e *Entry) error {
	if c.picked != nil {
		e.Opaque = c.picked[e.Path] == pickOpaque // the attribute would be of the step's own making
		return nil
	}
	if !e.Opaque || c.below == nil {
		return nil
	}
	_, there, err := c.below.Lstat(e.Path)
	if err != nil || there {
		return err
	}
	e.Opaque = false
	return unix.Fremovexattr(fd, overlayXattr+"opaque")
}
