package snapshot

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// A Writer writes the tar of a layer. The bytes depend on the entries alone: headers
// carry no names of users, no access times, and whole seconds.
type Writer struct {
	*writerBuffers
	tw      *tar.Writer
	sum     *counter
	entries List
	content *digest.Hasher // of the entries
	last    string         // path
}

// writerBuffers are used again once a Writer is closed: to clear new ones costs more than to write a small layer.
type writerBuffers struct {
	out *bufio.Writer
	buf []byte
}

var writerBuffersPool = sync.Pool{New: func() any {
	return &writerBuffers{out: bufio.NewWriterSize(nil, 256<<10), buf: make([]byte, 128<<10)}
}}

// counter counts and hashes what passes on to w.
type counter struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.h.Write(p)
	c.n += int64(len(p))
	return c.w.Write(p)
}

// NewWriter returns a Writer on w. Entries must be added in the order of their paths.
func NewWriter(w io.Writer) *Writer {
	sum := &counter{w: w, h: sha256.New()}
	b := writerBuffersPool.Get().(*writerBuffers)
	b.out.Reset(sum)
	return &Writer{writerBuffers: b, tw: tar.NewWriter(b.out), sum: sum, content: newContent(false)}
}

// ErrChanged is returned when a file is not as long as its entry says.
var ErrChanged = errors.New("changed while it was read")

// Add writes e. content gives the bytes of a Regular file and is nil for others. When e.Digest is
// set it is taken for the digest of the content, which is not hashed again.
func (w *Writer) Add(e Entry, content io.Reader) error {
	if w.entries.Len() > 0 && comparePaths(w.last, e.Path) >= 0 {
		return fmt.Errorf("layer entry %q after %q: out of order", e.Path, w.last)
	}
	if err := w.tw.WriteHeader(header(&e)); err != nil {
		return fmt.Errorf("layer entry %q: %w", e.Path, err)
	}
	if e.Type == Regular {
		e.Offset = w.sum.n + int64(w.out.Buffered())
		if err := w.copy(&e, content); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if e.Opaque {
		marker := Entry{Path: join(e.Path, opaqueName), Type: Regular}
		if err := w.tw.WriteHeader(header(&marker)); err != nil {
			return err
		}
	}
	HashEntry(w.content, &e)
	w.entries.add(&e)
	w.last = e.Path
	return nil
}

func (w *Writer) copy(e *Entry, r io.Reader) error {
	dst := io.Writer(w.tw)
	var h hash.Hash
	if e.Digest.IsZero() {
		h = sha256.New()
		dst = io.MultiWriter(w.tw, h)
	}
	// One byte more than announced shows a file that has grown.
	n, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{io.LimitReader(r, e.Size+1)}, w.buf)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != e.Size {
		return ErrChanged
	}
	if err != nil {
		return err
	}
	if h != nil {
		e.Digest = digest.Digest(h.Sum(nil))
	}
	return nil
}

// Close ends the tar and returns its table of contents. The Writer must not be used again.
func (w *Writer) Close() (*TOC, error) {
	if err := w.tw.Close(); err != nil {
		return nil, err
	}
	if err := w.out.Flush(); err != nil {
		return nil, err
	}
	w.out.Reset(nil)
	writerBuffersPool.Put(w.writerBuffers)
	w.writerBuffers = nil
	return &TOC{DiffID: digest.Digest(w.sum.h.Sum(nil)), Size: w.sum.n, Content: w.content.Sum(), Entries: w.entries}, nil
}

var typeflags = map[Type]byte{
	Regular: tar.TypeReg, Dir: tar.TypeDir, Symlink: tar.TypeSymlink, Hardlink: tar.TypeLink,
	Char: tar.TypeChar, Block: tar.TypeBlock, Fifo: tar.TypeFifo, Whiteout: tar.TypeReg,
}

func header(e *Entry) *tar.Header {
	h := &tar.Header{
		Typeflag: typeflags[e.Type],
		Name:     e.Path,
		Mode:     int64(e.Mode),
		Uid:      e.UID,
		Gid:      e.GID,
		ModTime:  time.Unix(e.Mtime, 0),
		Linkname: e.Link,
	}
	switch e.Type {
	case Dir:
		h.Name += "/"
	case Regular:
		h.Size = e.Size
	case Char, Block:
		h.Devmajor, h.Devminor = int64(e.Major), int64(e.Minor)
	case Whiteout:
		h.Name = join(parentOf(e.Path), whiteoutPrefix+e.Name())
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[xattrRecord+k] = v
	}
	return h
}

// sortEntries orders entries as a Writer wants them.
func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
}
