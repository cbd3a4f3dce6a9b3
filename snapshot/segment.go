package snapshot

import (
	"slices"
	"strings"
)

// A segment is what a range of layers, one on the other, says of paths: of all that one of them has an entry for or something
// below, ordered by comparePaths. It does not depend on what is below the range, and is shared by all views that have it.
type segment []node

// A node is what the layers of a segment say of one path. Layers are known by their height in the chain, from 1; 0 is none.
type node struct {
	path string
	// of is the view whose topmost layer has the topmost entry for path, and entry its place there. It is nil where there is none.
	of    *View
	entry int32
	// implied is the topmost layer that has something below path, and no entry for path itself.
	implied int32
	// floor is the topmost layer that keeps what lower ones have below path from being seen: its entry is opaque, or no directory.
	floor int32
}

// height is the layer of the node's entry.
func (n *node) height() int32 {
	if n.of == nil {
		return 0
	}
	return n.of.height
}

// newSegment returns the segment of the topmost layer of v.
func newSegment(v *View) segment {
	s := make(segment, 0, v.toc.Entries.Len()+8)
	last, i := "", int32(0)
	for e := range v.toc.Entries.All() {
		s = appendImplied(s, last, e.Path, v.height)
		n := node{path: e.Path, of: v, entry: i}
		if e.Type != Dir || e.Opaque {
			n.floor = v.height
		}
		s = append(s, n)
		last = e.Path
		i++
	}
	return s
}

// appendImplied adds the directories that p is in and that the path before it, last, neither is nor is in.
func appendImplied(s segment, last, p string, height int32) segment {
	for i := range len(p) {
		if p[i] != '/' {
			continue
		}
		if dir := p[:i]; last != dir && !isBelow(last, dir) {
			s = append(s, node{path: dir, implied: height})
		}
	}
	return s
}

// isBelow reports whether p is in the directory dir or further below.
func isBelow(p, dir string) bool {
	return len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

// find returns the index of p, or where it would be.
func (s segment) find(p string) (int, bool) {
	return slices.BinarySearchFunc(s, p, func(n node, p string) int { return comparePaths(n.path, p) })
}

// get returns the node of p, or nil.
func (s segment) get(p string) *node {
	if i, ok := s.find(p); ok {
		return &s[i]
	}
	return nil
}

// children adds the paths of what is in dir to list, in order.
func (s segment) children(list []string, dir string) []string {
	prefix, i := "", 0
	if dir != "." {
		prefix = dir + "/"
		i, _ = s.find(prefix)
	}
	for i < len(s) && strings.HasPrefix(s[i].path, prefix) {
		p := s[i].path
		list = append(list, p)
		if i++; i < len(s) && isBelow(s[i].path, p) {
			rest := s[i:]
			i += searchBehind(rest, p)
		}
	}
	return list
}

// searchBehind returns the index of the first node behind those below p, with which s begins.
func searchBehind(s segment, p string) int {
	n, _ := slices.BinarySearchFunc(s, p, func(n node, p string) int {
		if isBelow(n.path, p) {
			return -1
		}
		return 1
	})
	return n
}

// merge returns the segment of the layers of upper on those of lower.
func merge(lower, upper segment) segment {
	out := make(segment, 0, len(lower)+len(upper))
	for len(lower) > 0 && len(upper) > 0 {
		switch c := comparePaths(lower[0].path, upper[0].path); {
		case c < 0:
			out, lower = append(out, lower[0]), lower[1:]
		case c > 0:
			out, upper = append(out, upper[0]), upper[1:]
		default:
			out, lower, upper = append(out, upper[0].over(&lower[0])), lower[1:], upper[1:]
		}
	}
	return append(append(out, lower...), upper...)
}

// over returns what n says of a path, and where it says nothing what below says.
func (n node) over(below *node) node {
	if n.of == nil {
		n.entry, n.of = below.entry, below.of
	}
	if n.implied == 0 {
		n.implied = below.implied
	}
	if n.floor == 0 {
		n.floor = below.floor
	}
	return n
}

// fewSegments is how many segments a view has before any are merged: most chains are shorter.
const fewSegments = 8

// pile returns the segments of a view, the lowest first, with top above them. It merges top with those below that are no larger
// than all above them together: so their number grows with the logarithm of the entries, and whenever an entry is merged again it
// is in a segment of twice the size. The segments of below stay as they are, for the other views that have them.
func pile(below []segment, top segment) []segment {
	n := len(below)
	if n >= fewSegments {
		for size := len(top); n > 0 && len(below[n-1]) <= size; n-- {
			size += len(below[n-1])
		}
	}
	merged := segment(nil)
	for _, s := range below[n:] { // the lower ones are the smaller ones
		merged = merge(merged, s)
	}
	if n < len(below) {
		top = merge(merged, top)
	}
	return append(below[:n:n], top)
}
