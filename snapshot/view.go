package snapshot

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// A View is a chain seen as one root file system, from the tables of contents of its
// layers. It implements Tree. Nothing is unpacked for it.
type View struct {
	store *Store
	parts []part // the topmost first
}

// A part is a layer of a view.
type part struct {
	*TOC
	chain *Chain
	// linked holds the paths of files that the layer has other names for.
	linked map[string]bool
}

func newPart(t *TOC, c *Chain) part {
	p := part{TOC: t, chain: c}
	for i := range t.Entries {
		if t.Entries[i].Type != Hardlink {
			continue
		}
		if p.linked == nil {
			p.linked = map[string]bool{}
		}
		p.linked[t.Entries[i].Link] = true
	}
	return p
}

// View returns the view of a chain. Layers whose contents are not known yet are downloaded and read.
func (s *Store) View(ctx context.Context, id digest.Digest) (*View, error) {
	chains, err := s.Chains(id)
	if err != nil {
		return nil, err
	}
	v := &View{store: s}
	for _, c := range slices.Backward(chains) {
		t, err := s.TOC(ctx, c.Layer)
		if err != nil {
			return nil, err
		}
		v.parts = append(v.parts, newPart(t, c))
		if t.Opaque {
			break
		}
	}
	return v, nil
}

// rootEntry is the entry of the root itself, which no layer carries.
func rootEntry() Entry { return Entry{Path: ".", Type: Dir, Mode: 0o755} }

// Lstat implements Tree.
func (v *View) Lstat(p string) (Entry, bool, error) {
	e, ok := v.lookup(p, v.parts)
	return e, ok, nil
}

func (v *View) lookup(p string, parts []part) (Entry, bool) {
	if p == "." {
		return rootEntry(), true
	}
	implied := false
	for n, t := range parts {
		i, ok := t.find(p)
		switch {
		case ok && t.Entries[i].Type == Whiteout:
			return impliedDir(p, implied)
		case ok && implied && t.Entries[i].Type != Dir:
			return impliedDir(p, implied)
		case ok:
			return v.present(t, &t.Entries[i], parts[n:])
		case i < len(t.Entries) && strings.HasPrefix(t.Entries[i].Path, p+"/"):
			implied = true // the layer has something below p, and no entry for p itself
		}
		if t.hides(p) {
			break
		}
	}
	return impliedDir(p, implied)
}

func impliedDir(p string, implied bool) (Entry, bool) {
	if !implied {
		return Entry{}, false
	}
	return Entry{Path: p, Type: Dir, Mode: 0o755}, true
}

// present returns an entry as the view shows it: hard links become the file they name.
func (v *View) present(t part, e *Entry, parts []part) (Entry, bool) {
	out := *e
	out.from = t.chain
	out.Opaque = false // how a layer hides others is nothing of what is seen
	if e.Type != Hardlink {
		if t.linked[e.Path] {
			out.Inode = t.chain.Layer.Hex() + ":" + e.Path
		}
		return out, true
	}
	target := t.get(e.Link)
	for n := 0; n < maxLinks && target != nil && target.Type == Hardlink; n++ { // a link to a link
		target = t.get(target.Link)
	}
	if target == nil || target.Type == Hardlink {
		var ok bool
		if out, ok = v.lookup(e.Link, parts[1:]); !ok {
			return Entry{}, false
		}
	} else {
		out = *target
		out.from = t.chain
	}
	out.Inode = out.Path
	out.Path = e.Path
	if out.from != nil {
		out.Inode = out.from.Layer.Hex() + ":" + out.Inode
	}
	return out, true
}

// hides reports whether lower layers cannot be seen at p, because an ancestor of p is gone,
// opaque, or no directory in this layer.
func (t *TOC) hides(p string) bool {
	for dir := parentOf(p); dir != "."; dir = parentOf(dir) {
		if e := t.get(dir); e != nil && (e.Type != Dir || e.Opaque) {
			return true
		}
	}
	return false
}

// ReadDir implements Tree.
func (v *View) ReadDir(dir string) ([]Entry, error) {
	seen := map[string]bool{}
	var out []Entry
	for n, t := range v.parts {
		if dir != "." {
			if e := t.get(dir); e != nil && e.Type != Dir {
				break
			}
		}
		t.children(dir, func(p string, e *Entry) {
			if seen[p] {
				return
			}
			seen[p] = true
			if e != nil && e.Type == Whiteout {
				return
			}
			if x, ok := v.lookup(p, v.parts[n:]); ok {
				out = append(out, x)
			}
		})
		if e := t.get(dir); e != nil && e.Opaque || t.hides(dir) {
			break
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// children calls f for every name in dir: with its entry, or with nil for a directory that is only implied.
func (t *TOC) children(dir string, f func(p string, e *Entry)) {
	prefix := dir + "/"
	i := 0
	if dir == "." {
		prefix = ""
	} else {
		i, _ = t.find(prefix)
	}
	for i < len(t.Entries) {
		e := &t.Entries[i]
		rest, ok := strings.CutPrefix(e.Path, prefix)
		if !ok {
			return
		}
		name, _, below := strings.Cut(rest, "/")
		p := prefix + name
		if below {
			f(p, nil)
		} else {
			f(p, e)
		}
		// The first path behind all of p's: no byte sorts lower than the slash but the end.
		i, _ = t.find(p + "/\xff\xff\xff\xff")
		for i < len(t.Entries) && strings.HasPrefix(t.Entries[i].Path, p+"/") {
			i++
		}
	}
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
	for _, p := range v.parts {
		for i := range p.Entries {
			e := &p.Entries[i]
			if e.Type != Symlink && e.Type != Fifo || e.UID == 0 && e.GID == 0 {
				continue
			}
			now, ok := v.lookup(e.Path, v.parts)
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
func (v *View) Empty() bool { return len(v.parts) == 0 }
