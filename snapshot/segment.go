package snapshot

import (
	"slices"
	"sort"
	"strings"
)

// A segment is what a range of layers, one on the other, says of paths: of all that one of them has an entry for or something
// below, ordered by comparePaths. It does not depend on what is below the range, and is shared by all views that have it.
// That of one layer is read from its table of contents: most layers are asked for a few paths of many, and are never merged.
type segment struct {
	layer *View  // the view whose topmost layer it is the segment of; nil for that of several layers
	nodes []node // what several layers say
}

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

// len is about how many paths a segment knows: the folders that a single layer implies are not counted.
func (s segment) len() int {
	if s.layer != nil {
		return s.layer.toc.Entries.Len()
	}
	return len(s.nodes)
}

// all returns all nodes of a segment.
func (s segment) all() []node {
	if s.layer == nil {
		return s.nodes
	}
	entries := &s.layer.toc.Entries
	nodes := make([]node, 0, entries.Len()+8)
	last := ""
	for i := range entries.Len() {
		n := s.layer.node(i)
		nodes = append(appendImplied(nodes, last, n.path, s.layer.height), n)
		last = n.path
	}
	return nodes
}

// node returns what the topmost layer of v says of the path of one of its entries.
func (v *View) node(i int) node {
	n := node{path: v.toc.Entries.path(i), of: v, entry: int32(i)}
	if v.toc.Entries.kind(i) != Dir || v.toc.Entries.At(i).Opaque {
		n.floor = v.height
	}
	return n
}

// appendImplied adds the directories that p is in and that the path before it, last, neither is nor is in.
func appendImplied(s []node, last, p string, height int32) []node {
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

// path returns the i-th path of a segment, without those that a single layer implies.
func (s segment) path(i int) string {
	if s.layer != nil {
		return s.layer.toc.Entries.path(i)
	}
	return s.nodes[i].path
}

// find returns the index of p, or where it would be.
func (s segment) find(p string) (int, bool) {
	if s.layer != nil {
		return s.layer.toc.Entries.find(p)
	}
	return slices.BinarySearchFunc(s.nodes, p, func(n node, p string) int { return comparePaths(n.path, p) })
}

// get returns the node of p, and whether there is one.
func (s segment) get(p string) (node, bool) {
	i, ok := s.find(p)
	switch {
	case ok && s.layer != nil:
		return s.layer.node(i), true
	case ok:
		return s.nodes[i], true
	case s.layer != nil && i < s.len() && isBelow(s.path(i), p):
		return node{path: p, implied: s.layer.height}, true
	}
	return node{}, false
}

// children adds the paths of what is in dir to list, in order.
func (s segment) children(list []string, dir string) []string {
	prefix, i := "", 0
	if dir != "." {
		prefix = dir + "/"
		i, _ = s.find(prefix)
	}
	for ; i < s.len(); i = s.behind(i, list[len(list)-1]) {
		p := s.path(i)
		if !strings.HasPrefix(p, prefix) {
			break
		}
		if n := strings.IndexByte(p[len(prefix):], '/'); n >= 0 {
			p = p[:len(prefix)+n] // which the layer implies
		}
		list = append(list, p)
	}
	return list
}

// behind returns the index of the first path that is not below p, where that at i is p or below it.
func (s segment) behind(i int, p string) int {
	if i++; i == s.len() || !isBelow(s.path(i), p) {
		return i
	}
	return i + sort.Search(s.len()-i, func(n int) bool { return !isBelow(s.path(i+n), p) })
}

// merge returns the nodes of the layers of upper on those of lower.
func merge(lower, upper []node) []node {
	out := make([]node, 0, len(lower)+len(upper))
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
		for size := top.len(); n > 0 && below[n-1].len() <= size; n-- {
			size += below[n-1].len()
		}
	}
	if n < len(below) {
		var merged []node
		for _, s := range below[n:] { // the lower ones are the smaller ones
			merged = merge(merged, s.all())
		}
		top = segment{nodes: merge(merged, top.all())}
	}
	return append(below[:n:n], top)
}
