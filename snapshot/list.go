package snapshot

import (
	"crypto/sha256"
	"iter"
	"slices"
	"strings"
)

// A List holds entries in a third of the memory that a slice of them takes, in the encoding of a table of contents, where the
// collector has nothing to look for: a layer may have hundreds of thousands. Entries are only added. What a List keeps of one is
// what is part of a layer: neither Inode nor where it comes from. The zero List is empty.
type List struct {
	blocks []*strings.Builder // none is written to beyond its capacity, so that what was cut out of it stays where it is
	places []position
	size   int // of all blocks
}

// A position is where an entry is encoded.
type position struct{ block, offset uint32 }

// A List grows by blocks that are as large as all before, within these bounds.
const (
	minListBlock = 512
	maxListBlock = 64 << 10
)

// ListOf returns a List of entries.
func ListOf(entries ...Entry) List {
	var l List
	for i := range entries {
		l.add(&entries[i])
	}
	return l
}

// Len returns the number of entries.
func (l *List) Len() int { return len(l.places) }

// add adds an entry at the end.
func (l *List) add(e *Entry) {
	var space [512]byte
	b := e.append(space[:0])
	last := len(l.blocks) - 1
	if last < 0 || l.blocks[last].Cap()-l.blocks[last].Len() < len(b) {
		block := &strings.Builder{}
		block.Grow(max(len(b), min(max(l.size, minListBlock), maxListBlock)))
		l.blocks = append(l.blocks, block)
		last++
	}
	l.places = append(l.places, position{uint32(last), uint32(l.blocks[last].Len())})
	l.blocks[last].Write(b)
	l.size += len(b)
}

// At returns an entry.
func (l *List) At(i int) (e Entry) {
	d := l.decoder(i)
	d.entry(&e)
	return e
}

func (l *List) decoder(i int) decoder {
	p := l.places[i]
	return decoder{rest: l.blocks[p.block].String()[p.offset:]}
}

// path returns the path of an entry, which costs less than the entry.
func (l *List) path(i int) string {
	d := l.decoder(i)
	d.byte()
	return d.string()
}

// kind returns the type of an entry.
func (l *List) kind(i int) Type {
	p := l.places[i]
	return Type(l.blocks[p.block].String()[p.offset])
}

// All returns the entries in order.
func (l *List) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range l.places {
			if !yield(l.At(i)) {
				return
			}
		}
	}
}

// find returns the index of p in a List that is ordered by comparePaths, or where it would be.
func (l *List) find(p string) (int, bool) {
	lo, hi := 0, len(l.places)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if comparePaths(l.path(mid), p) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(l.places) && l.path(lo) == p
}

// parse makes l the n entries that b holds, which must be ordered.
func (l *List) parse(b []byte, n uint64) bool {
	block := &strings.Builder{}
	block.Write(b)
	d := decoder{rest: block.String()}
	*l = List{blocks: []*strings.Builder{block}, places: make([]position, 0, n), size: block.Len()}
	last := ""
	for i := range n {
		at := block.Len() - len(d.rest)
		var e Entry
		if d.entry(&e); d.bad || i > 0 && comparePaths(last, e.Path) >= 0 {
			return false
		}
		l.places = append(l.places, position{0, uint32(at)})
		last = e.Path
	}
	return d.rest == ""
}

// sorted returns the indexes of the entries, ordered by path.
func (l *List) sorted(indexes []int32) []int32 {
	slices.SortFunc(indexes, func(a, b int32) int { return comparePaths(l.path(int(a)), l.path(int(b))) })
	return indexes
}

// drain returns the entries with the given indexes, in that order, and forgets them on the way.
func (l *List) drain(order []int32) iter.Seq2[Entry, int32] {
	return func(yield func(Entry, int32) bool) {
		left := make([]int, len(l.blocks))
		for _, i := range order {
			left[l.places[i].block]++
		}
		for _, i := range order {
			e, block := l.At(int(i)), l.places[i].block
			if left[block]--; left[block] == 0 {
				l.blocks[block] = nil
			}
			if !yield(e, i) {
				return
			}
		}
	}
}

// A decoder reads the parts of a TOC; after the first that is not there it is bad and gives zeros. Strings are cut out of the text, not copied.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) take(n uint64) string {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return ""
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p
}

func (d *decoder) digest() (x [sha256.Size]byte) { copy(x[:], d.take(sha256.Size)); return x }

func (d *decoder) byte() byte {
	if p := d.take(1); p != "" {
		return p[0]
	}
	return 0
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// uvarint is binary.Uvarint.
func (d *decoder) uvarint() (v uint64) {
	for i := range min(len(d.rest), 10) {
		b := d.rest[i]
		if b < 0x80 {
			d.bad = d.bad || i == 9 && b > 1
			d.rest = d.rest[i+1:]
			return v | uint64(b)<<(7*i)
		}
		v |= uint64(b&0x7f) << (7 * i)
	}
	d.bad = true
	return 0
}

func (d *decoder) string() string { return d.take(d.uvarint()) }

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
	if n > uint64(len(d.rest)) {
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
