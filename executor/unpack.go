package executor

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/seed0570efb0/build/snapshot"
)

// unpack extracts m when it is a tar archive, compressed or not, and reports whether it was one. Its
// content decides, not its name.
func (c *copier) unpack(m match) (bool, error) {
	r, err := c.from.Open(m.entry)
	if err != nil {
		return false, err
	}
	defer r.Close()
	plain, err := archiveReader(r)
	if err != nil || plain == nil {
		return false, err
	}
	entries, tar, err := c.spool(plain)
	if err != nil {
		return true, fmt.Errorf("archive %s: %w", m.entry.Path, err)
	}
	root, err := snapshot.Resolve(c.out, c.op.Dest, true)
	if err != nil {
		return true, err
	}
	dir := c.newDir()
	dir.Mode = 0o755 // --chmod is not for it, as it is not for what an archive holds
	if err := c.out.MkdirAll(root, dir); err != nil {
		return true, err
	}
	for _, links := range []bool{false, true} { // entries come ordered by path: a link may come before its file
		for _, e := range entries {
			if (e.Type == snapshot.Hardlink) != links {
				continue
			}
			if err := c.extract(e, root, tar); err != nil {
				return true, fmt.Errorf("archive %s: %w", m.entry.Path, err)
			}
		}
	}
	return true, nil
}

// spool writes the uncompressed archive to a file of the store, so that entries can be read in the order
// of their paths, and returns them.
func (c *copier) spool(r io.Reader) ([]snapshot.Entry, *os.File, error) {
	dir, err := c.x.Disk.NewTempDir()
	if err != nil {
		return nil, nil, err
	}
	defer dir.Remove() // the open file stays
	f, err := os.OpenFile(dir.Join("archive"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	c.closers = append(c.closers, f)
	entries, err := snapshot.ReadArchive(c.ctx, io.TeeReader(r, f))
	return entries, f, err
}

// A subtree is a folder of a file system, seen as the root of all links in it.
type subtree struct {
	of   snapshot.Lstater
	root string
}

// Lstat implements snapshot.Lstater.
func (s subtree) Lstat(p string) (snapshot.Entry, bool, error) { return s.of.Lstat(s.path(p)) }

func (s subtree) path(p string) string { return path.Join(s.root, p) }

// within returns the path in the image of what an archive that is extracted to root calls p. Symbolic
// links on the way are followed, but none leads out of root: that is as far as an archive reaches.
func (c *copier) within(root, p string) (string, error) {
	dir := subtree{c.out, root}
	to, err := snapshot.Resolve(dir, p, false)
	return dir.path(to), err
}

// extract places an entry of an archive below root. What it replaces goes, but for a directory that stays one.
// Directories that the archive only implies are root's, also with --chown.
func (c *copier) extract(e snapshot.Entry, root string, tar *os.File) error {
	to, err := c.within(root, e.Path)
	if err != nil {
		return err
	}
	implied := snapshot.Entry{Type: snapshot.Dir, Mode: 0o755, Mtime: c.now}
	if err := c.out.MkdirAll(path.Dir(to), implied); err != nil {
		return err
	}
	if e.Type == snapshot.Hardlink {
		return c.extractLink(e, root, to)
	}
	offset, size := e.Offset, e.Size
	if offset < 0 {
		return fmt.Errorf("%s: sparse entries of this archive cannot be extracted", e.Path)
	}
	e.Path = to
	if c.owned {
		e.UID, e.GID = c.uid, c.gid
	}
	return c.out.Put(e, func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(tar, offset, size)), nil
	})
}

// extractLink places a hard link. A link to a file that the image had before becomes a copy of it, since a
// layer cannot name files of another one.
func (c *copier) extractLink(e snapshot.Entry, root, to string) error {
	link, err := c.within(root, e.Link)
	if err != nil {
		return err
	}
	target, ok, err := c.out.Lstat(link)
	if err != nil {
		return err
	}
	if !ok || target.Type != snapshot.Regular {
		return fmt.Errorf("hard link %q names %q, which is not a file in the image", e.Path, e.Link)
	}
	n := target
	n.Path, n.Inode = to, ""
	if c.out.Has(link) {
		n.Type, n.Link = snapshot.Hardlink, link
		return c.out.Put(n, nil)
	}
	return c.out.Put(n, func() (io.ReadCloser, error) { return c.base.Open(target) })
}

// IsArchive reports whether r gives a tar archive, compressed or not: whether ADD would unpack it.
func IsArchive(r io.Reader) bool {
	plain, err := archiveReader(r)
	return err == nil && plain != nil
}

// NewestFile returns the time of the newest regular file in the tar archive that r gives, compressed or not; 0 when there is none.
func NewestFile(ctx context.Context, r io.Reader) (newest int64, err error) {
	plain, err := archiveReader(r)
	if err != nil || plain == nil {
		return 0, err
	}
	entries, err := snapshot.ReadArchive(ctx, plain)
	for _, e := range entries {
		if e.Type == snapshot.Regular {
			newest = max(newest, e.Mtime)
		}
	}
	return newest, err
}

// archiveReader returns the uncompressed bytes of r if they are a tar archive, and nil if not.
func archiveReader(r io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	z, err := decompressor(in)
	if err != nil {
		return nil, nil // it only looks like compressed data
	}
	plain := bufio.NewReaderSize(z, 64<<10)
	block, err := plain.Peek(512)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF || !isTar(block) {
		return nil, nil
	}
	return plain, nil
}

func decompressor(in *bufio.Reader) (io.Reader, error) {
	magic, _ := in.Peek(6)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(in), nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(in)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(in, zstd.WithDecoderMaxMemory(256<<20))
	}
	return in, nil
}

// isTar reports whether block is the first header of a tar: its checksum is right.
func isTar(block []byte) bool {
	if len(block) < 512 || block[0] == 0 {
		return false
	}
	var want int64
	digits := bytes.Trim(block[148:156], " \x00")
	if len(digits) == 0 {
		return false
	}
	for _, d := range digits {
		if d < '0' || d > '7' {
			return false
		}
		want = want*8 + int64(d-'0')
	}
	var unsigned, signed int64
	for i, b := range block[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	return want == unsigned || want == signed
}
