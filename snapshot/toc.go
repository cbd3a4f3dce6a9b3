package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"sort"

	"github.com/seed0570efb0/build/internal/digest"
)

// A TOC is the table of contents of a layer. It must not be modified once made.
type TOC struct {
	DiffID digest.Digest // digest of the tar
	Size   int64         // of the tar, in bytes
	// Content names what the layer does, whenever it was made: all of its entries but for their
	// times and their places in the tar.
	Content digest.Digest
	// Opaque is set for a layer that hides all that is below it.
	Opaque bool
	// Entries are ordered by comparePaths; no path is there twice.
	Entries List
}

// get returns the entry at p, if there is one.
func (t *TOC) get(p string) (Entry, bool) {
	if i, ok := t.Entries.find(p); ok {
		return t.Entries.At(i), true
	}
	return Entry{}, false
}

// contentDigest computes Content.
func contentDigest(t *TOC) digest.Digest {
	h := newContent(t.Opaque)
	for e := range t.Entries.All() {
		HashEntry(h, &e)
	}
	return h.Sum()
}

// newContent returns the hasher of Content, which gets the entries in order.
func newContent(opaque bool) *digest.Hasher {
	h := digest.NewHasher("layer/v1")
	if opaque {
		h.Bool("opaque", true)
	}
	return h
}

// HashEntry writes into h what counts as content of e: path, type, permission bits, owner,
// link target, device number, extended attributes and the digest of the bytes. Times are left out, since a
// checkout gives new ones to the same files; Offset and Inode are places, not content.
func HashEntry(h *digest.Hasher, e *Entry) {
	h.String("path", e.Path)
	h.Int("type", int64(e.Type))
	h.Int("mode", int64(e.Mode))
	h.Int("uid", int64(e.UID))
	h.Int("gid", int64(e.GID))
	h.String("link", e.Link)
	h.Int("dev", int64(e.Major)<<32|int64(e.Minor))
	h.Map("xattrs", e.Xattrs)
	h.Bool("opaque", e.Opaque)
	h.Digest("digest", e.Digest)
}

// The file format of a TOC: a magic line, then varints and length-prefixed
// strings, then the SHA-256 of all before it. It is read whole, often, and
// by one machine only; for 50,000 entries JSON takes about ten times as long.
const tocMagic = "build toc 2\n"

var errTOC = errors.New("not a table of contents of this version, or cut short")

// Write writes the file form of t.
func (t *TOC) Write(w io.Writer) error {
	h := sha256.New()
	w = io.MultiWriter(w, h)
	b := []byte(tocMagic)
	b = append(b, t.DiffID[:]...)
	b = append(b, t.Content[:]...)
	b = binary.AppendVarint(b, t.Size)
	b = append(b, flag(t.Opaque))
	b = binary.AppendUvarint(b, uint64(t.Entries.Len()))
	if _, err := w.Write(b); err != nil {
		return err
	}
	for _, block := range t.Entries.blocks {
		if _, err := io.WriteString(w, block.String()); err != nil {
			return err
		}
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (e *Entry) append(b []byte) []byte {
	b = append(b, byte(e.Type))
	b = appendString(b, e.Path)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendVarint(b, int64(e.UID))
	b = binary.AppendVarint(b, int64(e.GID))
	b = binary.AppendVarint(b, e.Mtime)
	b = appendString(b, e.Link)
	switch e.Type {
	case Regular:
		b = binary.AppendVarint(b, e.Size)
		b = binary.AppendVarint(b, e.Offset)
		b = append(b, e.Digest[:]...)
	case Char, Block:
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	case Dir:
		b = append(b, flag(e.Opaque))
	}
	keys := make([]string, 0, len(e.Xattrs))
	for k := range e.Xattrs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = appendString(b, k)
		b = appendString(b, e.Xattrs[k])
	}
	return b
}

// ParseTOC reads the file form. It never panics, whatever b is.
func ParseTOC(b []byte) (*TOC, error) {
	body, sum := b, []byte(nil)
	if len(b) < len(tocMagic)+3*sha256.Size || !bytes.HasPrefix(b, []byte(tocMagic)) {
		return nil, errTOC
	}
	body, sum = b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, errTOC
	}
	body = body[len(tocMagic):]
	head := string(body[:min(len(body), 2*sha256.Size+2*binary.MaxVarintLen64+1)])
	d := decoder{rest: head}
	t := &TOC{DiffID: d.digest(), Content: d.digest(), Size: d.varint(), Opaque: d.byte() == 1}
	n := d.uvarint()
	if d.bad || n > uint64(len(b)) || !t.Entries.parse(body[len(head)-len(d.rest):], n) {
		return nil, errTOC
	}
	return t, nil
}
