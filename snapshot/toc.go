package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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
	Entries []Entry
}

// find returns the index of p in the entries, or where it would be.
func (t *TOC) find(p string) (int, bool) {
	return slices.BinarySearchFunc(t.Entries, p, func(e Entry, p string) int { return comparePaths(e.Path, p) })
}

// get returns the entry at p, or nil.
func (t *TOC) get(p string) *Entry {
	if i, ok := t.find(p); ok {
		return &t.Entries[i]
	}
	return nil
}

// contentDigest computes Content.
func contentDigest(t *TOC) digest.Digest {
	h := digest.NewHasher("layer/v1")
	if t.Opaque {
		h.Bool("opaque", true)
	}
	for i := range t.Entries {
		HashEntry(h, &t.Entries[i])
	}
	return h.Sum()
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

// Marshal returns the file form of t.
func (t *TOC) Marshal() []byte {
	b := make([]byte, 0, 64+96*len(t.Entries))
	b = append(b, tocMagic...)
	b = append(b, t.DiffID[:]...)
	b = append(b, t.Content[:]...)
	b = binary.AppendVarint(b, t.Size)
	b = append(b, flag(t.Opaque))
	b = binary.AppendUvarint(b, uint64(len(t.Entries)))
	for i := range t.Entries {
		b = t.Entries[i].append(b)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
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
	d := decoder{b: body[len(tocMagic):], text: string(body[len(tocMagic):])}
	t := &TOC{DiffID: d.digest(), Content: d.digest(), Size: d.varint(), Opaque: d.byte() == 1}
	n := d.uvarint()
	if n > uint64(len(b)) {
		return nil, errTOC
	}
	t.Entries = make([]Entry, n)
	for i := range t.Entries {
		d.entry(&t.Entries[i])
		if i > 0 && comparePaths(t.Entries[i-1].Path, t.Entries[i].Path) >= 0 {
			return nil, fmt.Errorf("%w: entries out of order", errTOC)
		}
	}
	if d.bad || len(d.b) != 0 {
		return nil, errTOC
	}
	return t, nil
}

// A decoder reads the parts of a TOC; after the first that is not there it is bad and gives zeros.
type decoder struct {
	b    []byte
	text string // what b was a suffix of at the start: strings are cut out of it, not copied
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) digest() (x digest.Digest) { copy(x[:], d.take(sha256.Size)); return x }

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.skip(n)
	return v
}

// skip leaves out the n bytes of a number that was read, which is 0 when n says that there is none.
func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad = true
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) string() string {
	n := d.uvarint()
	at := len(d.text) - len(d.b)
	if d.take(n) == nil {
		return ""
	}
	return d.text[at : at+int(n)]
}

func (d *decoder) entry(e *Entry) {
	e.Type = Type(d.byte())
	e.Path = d.string()
	e.Mode = uint32(d.uvarint())
	e.UID = int(d.varint())
	e.GID = int(d.varint())
	e.Mtime = d.varint()
	e.Link = d.string()
	switch e.Type {
	case Regular:
		e.Size = d.varint()
		e.Offset = d.varint()
		e.Digest = d.digest()
	case Char, Block:
		e.Major, e.Minor = uint32(d.uvarint()), uint32(d.uvarint())
	case Dir:
		e.Opaque = d.byte() == 1
	}
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
	}
	for range n {
		if d.bad {
			return
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string, n)
		}
		k := d.string()
		e.Xattrs[k] = d.string()
	}
}
