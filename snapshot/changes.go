package snapshot

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// Changes is a layer in the making on top of a View, for steps that only place files. Nothing
// is unpacked for it: the layer is written as a tar at once. It is not safe for concurrent use.
type Changes struct {
	base  *View
	nodes map[string]*change
}

type change struct {
	Entry
	content *content // of a Regular entry
}

// A content gives the bytes of a file. The names of one file share it, so that each name can be
// replaced without the others; which of them is the file is only said when the layer is written.
type content struct {
	open func() (io.ReadCloser, error)
}

// NewChanges returns no changes yet on top of base.
func NewChanges(base *View) *Changes {
	return &Changes{base: base, nodes: map[string]*change{}}
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
// when the layer is written. A Hardlink becomes another name of a file that was put before. The parent
// must be a directory.
func (c *Changes) Put(e Entry, open func() (io.ReadCloser, error)) error {
	n := change{Entry: e, content: &content{open}}
	if e.Type == Hardlink {
		file, ok := c.nodes[e.Link]
		if !ok || file.Type != Regular {
			return fmt.Errorf("hard link %q names %q, which is no file of the layer", e.Path, e.Link)
		}
		n = *file
		n.Path = e.Path
	}
	return c.put(n)
}

func (c *Changes) put(e change) error {
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
	c.nodes[e.Path] = &e
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

// changes returns what the layer holds, in order: the changes, and the directories they are in with the
// metadata they have, so that the layer's tree needs nothing from below.
func (c *Changes) changes() ([]*change, error) {
	out := make([]*change, 0, len(c.nodes)+8)
	added := map[string]bool{}
	for p, n := range c.nodes {
		out = append(out, n)
		for dir := parentOf(p); dir != "." && c.nodes[dir] == nil && !added[dir]; dir = parentOf(dir) {
			e, _, err := c.Lstat(dir)
			if err != nil {
				return nil, err
			}
			out = append(out, &change{Entry: e})
			added[dir] = true
		}
	}
	slices.SortFunc(out, func(a, b *change) int { return comparePaths(a.Path, b.Path) })
	nameLinks(out)
	return out, nil
}

// nameLinks makes the first name of a file the one that is a file, and the others hard links to it:
// whoever extracts the layer finds the file before its links.
func nameLinks(list []*change) {
	first := map[*content]string{}
	for i, e := range list {
		if e.Type != Regular {
			continue
		}
		if name, ok := first[e.content]; ok {
			list[i] = &change{Entry: Entry{Path: e.Path, Type: Hardlink, Link: name, Mode: e.Mode, UID: e.UID, GID: e.GID, Mtime: e.Mtime}}
		} else {
			first[e.content] = e.Path
		}
	}
}

// Commit writes the layer and returns the ID of the chain with it on top of parent, the chain of the base.
func (s *Store) Commit(ctx context.Context, parent digest.Digest, c *Changes, m Making) (digest.Digest, error) {
	changes, err := c.changes()
	if err != nil {
		return digest.Digest{}, err
	}
	return s.commitNew(parent, m, func(w *Writer) error {
		w.entries = make([]Entry, 0, len(changes))
		for _, e := range changes {
			if err := e.write(ctx, w); err != nil {
				return err
			}
		}
		return nil
	})
}

// Foresee returns an ID that stands for the chain that Commit would make, and whether that can be told: the digests of all files
// must be known. It is good for Content, Chain and View, in this Store only; its files have no bytes.
func (s *Store) Foresee(parent digest.Digest, c *Changes) (digest.Digest, bool, error) {
	changes, err := c.changes()
	if err != nil {
		return digest.Digest{}, false, err
	}
	t := &TOC{}
	for _, e := range changes {
		if e.Type == Regular && e.Digest.IsZero() {
			return digest.Digest{}, false, nil
		}
		t.Entries = append(t.Entries, e.Entry)
	}
	t.Content = contentDigest(t)
	below, err := s.Content(parent)
	if err != nil {
		return digest.Digest{}, false, err
	}
	h := digest.NewHasher("foreseen layer/v1") // no tar has this digest
	h.Digest("content", t.Content)
	t.DiffID = h.Sum()
	s.tocs.Store(t.DiffID, t)
	return s.foresee(parent, below, t.DiffID, t.Content), true, nil
}

// ForeseeStack returns an ID that stands for the chain that Stack would make, as Foresee does.
func (s *Store) ForeseeStack(lower, upper digest.Digest) (digest.Digest, error) {
	chains, err := s.Chains(upper)
	if err != nil {
		return digest.Digest{}, err
	}
	for _, c := range chains {
		below, err := s.Content(lower)
		if err != nil {
			return digest.Digest{}, err
		}
		lower = s.foresee(lower, below, c.Layer, c.Content)
	}
	return lower, nil
}

// foresee keeps a chain in memory, unless it is there, and returns its ID.
func (s *Store) foresee(parent, below, layer, content digest.Digest) digest.Digest {
	c := &Chain{ID: chainID(parent, layer), Parent: parent, Layer: layer, Content: chainContent(below, content)}
	s.chains.LoadOrStore(c.ID, c)
	return c.ID
}

// commitNew makes a layer of what write writes, and returns the ID of the chain with it on top of parent.
func (s *Store) commitNew(parent digest.Digest, m Making, write func(w *Writer) error) (digest.Digest, error) {
	blob, err := s.disk.NewBlob()
	if err != nil {
		return digest.Digest{}, err
	}
	defer blob.Abort()
	tap := m.tap(true)
	defer tap.end()
	w := NewWriter(tap.over(blob))
	w.sum.h = blobHash{blob: blob}
	if err := write(w); err != nil {
		return digest.Digest{}, err
	}
	toc, err := w.Close()
	if err != nil {
		return digest.Digest{}, err
	}
	id, err := s.commit(parent, toc, toc.Size, m.Created, func() error { _, err := blob.Commit(); return err })
	if err == nil {
		tap.name(toc.DiffID)
	}
	return id, err
}

// A blobHash is that of what a blob writer gets, which hashes it anyway.
type blobHash struct {
	nopHash
	blob *cache.BlobWriter
}

// Sum implements hash.Hash.
func (h blobHash) Sum(b []byte) []byte {
	d := h.blob.Digest()
	return append(b, d[:]...)
}

func (c *change) write(ctx context.Context, w *Writer) error {
	if c.Type != Regular {
		return w.Add(c.Entry, nil)
	}
	r, err := c.content.open()
	if err != nil {
		return err
	}
	defer r.Close()
	return w.Add(c.Entry, stoppable{ctx, r})
}
