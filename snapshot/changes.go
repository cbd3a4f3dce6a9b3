package snapshot

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// Changes is a layer in the making on top of a View, for steps that only place files. Nothing
// is unpacked for it: the layer is written as a tar at once. It is not safe for concurrent use.
type Changes struct {
	base  *View
	nodes map[string]change
}

type change struct {
	Entry
	open func() (io.ReadCloser, error)
}

// NewChanges returns no changes yet on top of base.
func NewChanges(base *View) *Changes {
	return &Changes{base: base, nodes: map[string]change{}}
}

// Lstat returns the entry at p as it is after the changes.
func (c *Changes) Lstat(p string) (Entry, bool, error) {
	if n, ok := c.nodes[p]; ok {
		return n.Entry, true, nil
	}
	for dir := parentOf(p); dir != "."; dir = parentOf(dir) {
		if n, ok := c.nodes[dir]; ok && (n.Type != Dir || n.Opaque) {
			return Entry{}, false, nil
		}
	}
	return c.base.Lstat(p)
}

// Put places e, in place of what was at its path; open gives the content of a Regular file and is called
// when the layer is written. The parent must be a directory.
func (c *Changes) Put(e Entry, open func() (io.ReadCloser, error)) error {
	parent, ok, err := c.Lstat(parentOf(e.Path))
	if err != nil {
		return err
	}
	if !ok || parent.Type != Dir {
		return fmt.Errorf("%s: its parent is not a directory", e.Path)
	}
	old, ok, err := c.Lstat(e.Path)
	if err != nil {
		return err
	}
	if ok && (old.Type == Dir) != (e.Type == Dir) {
		// What was in a directory goes with it; a directory in the place of a file starts empty.
		c.forget(e.Path)
		e.Opaque = e.Type == Dir
	} else if n, ok := c.nodes[e.Path]; ok && e.Type == Dir {
		e.Opaque = n.Opaque
	}
	if e.Type == Symlink {
		e.Mode = 0o777 // what the kernel says of every link
	}
	e.from = nil
	c.nodes[e.Path] = change{e, open}
	return nil
}

// Has reports whether the layer itself holds p.
func (c *Changes) Has(p string) bool { _, ok := c.nodes[p]; return ok }

// forget drops the changes below p.
func (c *Changes) forget(p string) {
	for q := range c.nodes {
		if len(q) > len(p) && q[len(p)] == '/' && q[:len(p)] == p {
			delete(c.nodes, q)
		}
	}
}

// MkdirAll makes the directory p and its missing parents, with the metadata of like. What is
// there already stays as it is; when it is no directory, that is an error. Symbolic links must
// have been resolved.
func (c *Changes) MkdirAll(p string, like Entry) error {
	if p == "." {
		return nil
	}
	e, ok, err := c.Lstat(p)
	if err != nil {
		return err
	}
	if ok {
		if e.Type != Dir {
			return fmt.Errorf("cannot create directory %q: it is there and no directory", "/"+p)
		}
		return nil
	}
	if err := c.MkdirAll(parentOf(p), like); err != nil {
		return err
	}
	return c.Put(Entry{Path: p, Type: Dir, Mode: like.Mode, UID: like.UID, GID: like.GID, Mtime: like.Mtime}, nil)
}

// entries returns what the layer holds, in order: the changes, and the directories they are in with the
// metadata they have, so that the layer's tree needs nothing from below.
func (c *Changes) entries() ([]Entry, error) {
	need := map[string]Entry{}
	for p, n := range c.nodes {
		need[p] = n.Entry
		for dir := parentOf(p); dir != "."; dir = parentOf(dir) {
			if _, ok := need[dir]; ok {
				continue
			}
			e, _, err := c.Lstat(dir)
			if err != nil {
				return nil, err
			}
			need[dir] = e
		}
	}
	out := make([]Entry, 0, len(need))
	for _, e := range need {
		out = append(out, e)
	}
	sortEntries(out)
	return out, nil
}

// orderLinks makes the first name of a file, in the order of a layer, the one that is a file, and the others hard
// links to it: whoever extracts the layer finds the file before its links.
func (c *Changes) orderLinks() error {
	var links []Entry
	for _, n := range c.nodes {
		if n.Type == Hardlink {
			links = append(links, n.Entry)
		}
	}
	sortEntries(links)
	first := map[string]string{} // a name that was the file -> the one that is now
	for _, e := range links {
		name := e.Link
		if f, ok := first[name]; ok {
			name = f
		}
		file, ok := c.nodes[name]
		if !ok || file.Type != Regular {
			return fmt.Errorf("hard link %q names %q, which is no file of the layer", e.Path, e.Link)
		}
		if comparePaths(name, e.Path) > 0 {
			link := file.Entry
			link.Type, link.Link = Hardlink, e.Path
			c.nodes[name] = change{link, nil}
			first[e.Link] = e.Path
			file.Path = e.Path
			c.nodes[e.Path] = file
			continue
		}
		e.Link = name
		c.nodes[e.Path] = change{e, nil}
	}
	return nil
}

// Commit writes the layer and returns the ID of the chain with it on top of parent, the chain of the base.
func (s *Store) Commit(ctx context.Context, parent digest.Digest, c *Changes, created time.Time) (digest.Digest, error) {
	if err := c.orderLinks(); err != nil {
		return digest.Digest{}, err
	}
	entries, err := c.entries()
	if err != nil {
		return digest.Digest{}, err
	}
	blob, err := s.disk.NewBlob()
	if err != nil {
		return digest.Digest{}, err
	}
	defer blob.Abort()
	w := NewWriter(blob)
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return digest.Digest{}, err
		}
		if err := add(w, e, c.nodes[e.Path].open); err != nil {
			return digest.Digest{}, err
		}
	}
	toc, err := w.Close()
	if err != nil {
		return digest.Digest{}, err
	}
	if _, err := blob.Commit(); err != nil {
		return digest.Digest{}, err
	}
	if err := s.writeTOC(toc); err != nil {
		return digest.Digest{}, err
	}
	return s.Append(parent, toc.DiffID, toc.Content, created)
}

func add(w *Writer, e Entry, open func() (io.ReadCloser, error)) error {
	if e.Type != Regular {
		return w.Add(e, nil)
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	return w.Add(e, r)
}
