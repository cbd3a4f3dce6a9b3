package snapshot

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// A View is a chain seen as one root file system, from the tables of contents of its
// layers. It implements Tree. Nothing is unpacked for it. It is made of the view of the chain below, with
// which it shares what it knows: a chain costs as much as it has entries, not that for each of its layers.
type View struct {
	store *Store
	// below is the view of what is seen through the topmost layer: nothing, when that layer hides all.
	below *View
	// chain and toc are the topmost layer. They are nil in the view of scratch.
	chain *Chain
	toc   *TOC
	// linked holds the paths of files that the topmost layer has other names for.
	linked   map[string]bool
	height   int32     // how many layers are seen
	segments []segment // the topmost last
}

// View returns the view of a chain. Layers whose contents are not known yet are downloaded and read.
func (s *Store) View(ctx context.Context, id digest.Digest) (*View, error) {
	type layer struct {
		chain *Chain
		toc   *TOC
	}
	var above []layer // what has no view yet, the topmost first
	v := &View{store: s}
	for !id.IsZero() {
		if known, ok := s.views.Load(id); ok {
			v = known.(*View)
			break
		}
		c, err := s.Chain(id)
		if err != nil {
			return nil, err
		}
		t, err := s.TOC(ctx, c.Layer)
		if err != nil {
			return nil, err
		}
		above = append(above, layer{c, t})
		if t.Opaque {
			break
		}
		id = c.Parent
	}
	for _, l := range slices.Backward(above) {
		v = v.with(l.chain, l.toc)
		s.views.Store(l.chain.ID, v)
	}
	return v, nil
}

// with returns the view with one layer above.
func (v *View) with(c *Chain, t *TOC) *View {
	u := &View{store: v.store, below: v, chain: c, toc: t, height: v.height + 1}
	for i := range t.Entries.Len() {
		if t.Entries.kind(i) != Hardlink {
			continue
		}
		if u.linked == nil {
			u.linked = map[string]bool{}
		}
		u.linked[t.Entries.At(i).Link] = true
	}
	u.segments = pile(v.segments, segment{layer: u})
	return u
}

// rootEntry is the entry of the root itself, which no layer carries.
func rootEntry() Entry { return Entry{Path: ".", Type: Dir, Mode: 0o755} }

// Lstat implements Tree.
func (v *View) Lstat(p string) (Entry, bool, error) {
	e, ok := v.lookup(p)
	return e, ok, nil
}

func (v *View) lookup(p string) (Entry, bool) {
	if p == "." {
		return rootEntry(), true
	}
	return v.above(p, v.floor(parentOf(p)))
}

// floor returns the lowest layer whose entries below dir are seen: it, or an ancestor, is gone, opaque, or no directory there.
func (v *View) floor(dir string) (floor int32) {
	for ; dir != "."; dir = parentOf(dir) {
		for _, s := range slices.Backward(v.segments) {
			if n, ok := s.get(dir); ok && n.floor != 0 {
				floor = max(floor, n.floor)
				break
			}
		}
	}
	return floor
}

// above returns what the layers from floor on show at p.
func (v *View) above(p string, floor int32) (Entry, bool) {
	var all node // what all layers say of p, as far as it matters
	for _, s := range slices.Backward(v.segments) {
		if n, ok := s.get(p); ok {
			all = all.over(&n)
		}
		if all.of != nil {
			break
		}
	}
	// A layer may have something below p, and no entry for p itself: then there is a directory, whatever is further down.
	at := all.height()
	implied := all.implied > at && all.implied >= floor
	if at != 0 && at >= floor {
		e := all.of.toc.Entries.At(int(all.entry))
		if e.Type != Whiteout && (!implied || e.Type == Dir) {
			return all.of.present(e)
		}
	}
	if implied {
		return Entry{Path: p, Type: Dir, Mode: 0o755}, true
	}
	return Entry{}, false
}

// present returns an entry of the topmost layer as the view shows it: hard links become the file they name.
func (v *View) present(e Entry) (Entry, bool) {
	out := e
	out.from = v.chain
	out.Opaque = false // how a layer hides others is nothing of what is seen
	if e.Type != Hardlink {
		if v.linked[e.Path] {
			out.Inode = v.chain.Layer.Hex() + ":" + e.Path
		}
		return out, true
	}
	link := e.Link
	target, ok := v.toc.get(link)
	for n := 0; n < maxLinks && ok && target.Type == Hardlink; n++ { // a link to a link
		link = target.Link
		target, ok = v.toc.get(link)
	}
	if ok {
		out = target
		out.from = v.chain
	} else {
		out, _ = v.below.lookup(link)
	}
	switch out.Type {
	case Regular, Symlink, Fifo, Char, Block:
	default:
		return Entry{}, false // nothing, or what can have no second name
	}
	out.Inode = out.Path
	out.Path = e.Path
	if out.from != nil {
		out.Inode = out.from.Layer.Hex() + ":" + out.Inode
	}
	return out, true
}

// ReadDir implements Tree.
func (v *View) ReadDir(dir string) ([]Entry, error) {
	var paths []string
	for _, s := range v.segments {
		paths = s.children(paths, dir)
	}
	if len(v.segments) > 1 {
		slices.Sort(paths)
		paths = slices.Compact(paths)
	}
	floor := v.floor(dir)
	out := make([]Entry, 0, len(paths))
	for _, p := range paths {
		if e, ok := v.above(p, floor); ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// Digest implements Tree.
func (v *View) Digest(_ context.Context, e Entry) (digest.Digest, error) { return e.Digest, nil }

// Open implements Tree.
func (v *View) Open(e Entry) (io.ReadCloser, error) {
	if e.from == nil || e.Type != Regular {
		return nil, fmt.Errorf("%s: not a regular file", e.Path)
	}
	return v.store.openFile(e)
}

// An Lstater tells what is at a path, as Tree.Lstat does.
type Lstater interface {
	Lstat(p string) (Entry, bool, error)
}

// Resolve returns the path that p leads to in t: symbolic links are followed inside the root, the last element
// only when follow is set. The result need not exist.
func Resolve(t Lstater, p string, follow bool) (string, error) {
	var failed error
	readlink := func(p string) (string, bool) {
		e, ok, err := t.Lstat(p)
		if err != nil {
			failed = err
		}
		return e.Link, ok && e.Type == Symlink
	}
	p = Clean(p)
	last := ""
	if !follow && p != "." {
		last, p = p[strings.LastIndex(p, "/")+1:], parentOf(p)
	}
	q, err := followLinks(p, readlink)
	if err == nil {
		err = failed
	}
	if err != nil || last == "" {
		return q, err
	}
	return join(q, last), nil
}

// Walk calls f for p and, when it is a directory, for everything in it, a directory before
// what it holds, in the order of names. A false result of f keeps out of a directory.
func Walk(t Tree, p string, f func(e Entry) (bool, error)) error {
	e, ok, err := t.Lstat(p)
	if err != nil || !ok {
		return err
	}
	return walk(t, e, f)
}

func walk(t Tree, e Entry, f func(e Entry) (bool, error)) error {
	enter, err := f(e)
	if err != nil || !enter || e.Type != Dir {
		return err
	}
	list, err := t.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := walk(t, c, f); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns the content of a regular file of t, symbolic links followed. A file larger
// than max bytes is an error. A missing one is (nil, false, nil).
func ReadFile(t Tree, p string, max int64) ([]byte, bool, error) {
	q, err := Resolve(t, p, true)
	if err != nil {
		return nil, false, err
	}
	e, ok, err := t.Lstat(q)
	if err != nil || !ok || e.Type != Regular {
		return nil, false, err
	}
	if e.Size > max {
		return nil, false, fmt.Errorf("%s: %d bytes are more than the %d that are read of such a file", p, e.Size, max)
	}
	r, err := t.Open(e)
	if err != nil {
		return nil, false, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, max))
	return b, err == nil, err
}

// Links returns the owners, other than root, of what can carry no mark: symbolic links and pipes.
func (v *View) Links() map[string]owners.Mark {
	var links map[string]owners.Mark
	for u := v; u.height > 0; u = u.below {
		for e := range u.toc.Entries.All() {
			if e.Type != Symlink && e.Type != Fifo || e.UID == 0 && e.GID == 0 {
				continue
			}
			now, ok := v.lookup(e.Path)
			if !ok || now.Type != e.Type || now.UID == 0 && now.GID == 0 {
				continue
			}
			if links == nil {
				links = map[string]owners.Mark{}
			}
			links[e.Path] = owners.Mark{UID: uint32(now.UID), GID: uint32(now.GID)}
		}
	}
	return links
}

// Empty reports whether the view is scratch: a chain without layers.
func (v *View) Empty() bool { return v.height == 0 }
