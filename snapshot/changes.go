package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// Changes is a layer in the making on top of a View, for steps that only place files. Nothing
// is unpacked for it: the layer is written as a tar at once. It is not safe for concurrent use.
type Changes struct {
	base *View
	// put holds all that was put, and files of it which of the contents is that of a Regular entry; what is below 0 is one of the origins,
	// counted from -1.
	put   List
	files []int32
	// at is the place of what counts, by path: the last that was put there.
	at       map[string]int32
	contents []content
	origins  []*Origin
}

// A content gives the bytes of a file. The names of one file have the same, so that each name can be
// replaced without the others; which of them is the file is only said when the layer is written.
type content func() (io.ReadCloser, error)

// An Origin gives the bytes of many files, by the paths that they have in the layer.
type Origin func(p string) (io.ReadCloser, error)

// content returns that of the file at p.
func (o *Origin) content(p string) content {
	return func() (io.ReadCloser, error) { return (*o)(p) }
}

// NewChanges returns no changes yet on top of base.
func NewChanges(base *View) *Changes {
	return &Changes{base: base, at: map[string]int32{}}
}

// Lstat returns the entry at p as it is after the changes.
func (c *Changes) Lstat(p string) (Entry, bool, error) {
	if i, ok := c.at[p]; ok {
		return c.put.At(int(i)), true, nil
	}
	for dir := parentOf(p); dir != "."; dir = parentOf(dir) {
		if i, ok := c.at[dir]; ok {
			if e := c.put.At(int(i)); e.Type != Dir || e.Opaque {
				return Entry{}, false, nil
			}
		}
	}
	return c.base.Lstat(p)
}

// Put places e, in place of what was at its path; open gives the content of a Regular file and is called
// when the layer is written. A Hardlink becomes another name of a file that was put before. The parent
// must be a directory.
func (c *Changes) Put(e Entry, open func() (io.ReadCloser, error)) error {
	if e.Type != Hardlink {
		c.contents = append(c.contents, open)
		return c.place(e, int32(len(c.contents)-1))
	}
	i, ok := c.at[e.Link]
	if !ok || c.put.kind(int(i)) != Regular {
		return fmt.Errorf("hard link %q names %q, which is no file of the layer", e.Path, e.Link)
	}
	n := c.put.At(int(i))
	if o := c.files[i]; o < 0 { // from now on it has more than one name
		c.contents = append(c.contents, c.origins[^o].content(n.Path))
		c.files[i] = int32(len(c.contents) - 1)
	}
	n.Path = e.Path
	return c.place(n, c.files[i])
}

// PutFrom is Put for one of many files from one origin. It keeps next to nothing for each.
func (c *Changes) PutFrom(e Entry, o *Origin) error {
	if n := len(c.origins); n == 0 || c.origins[n-1] != o {
		c.origins = append(c.origins, o)
	}
	return c.place(e, ^int32(len(c.origins)-1))
}

// place puts e, with one of the contents.
func (c *Changes) place(e Entry, file int32) error {
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
	} else if i, ok := c.at[e.Path]; ok && e.Type == Dir {
		e.Opaque = c.put.At(int(i)).Opaque
	}
	if e.Type == Symlink {
		e.Mode = 0o777 // what the kernel says of every link
	}
	i := c.put.Len()
	c.put.add(&e)
	c.files = append(c.files, file)
	c.at[c.put.path(i)] = int32(i) // a path that takes no memory of its own
	return nil
}

// Has reports whether the layer itself holds p.
func (c *Changes) Has(p string) bool { _, ok := c.at[p]; return ok }

// forget drops the changes below p.
func (c *Changes) forget(p string) {
	for q := range c.at {
		if isBelow(q, p) {
			delete(c.at, q)
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

// complete puts the directories that changes are in, with the metadata they have, so that the layer's tree needs nothing from below.
func (c *Changes) complete() error {
	var missing []Entry
	seen := map[string]bool{}
	for p := range c.at {
		for dir := parentOf(p); dir != "." && !c.Has(dir) && !seen[dir]; dir = parentOf(dir) {
			e, _, err := c.Lstat(dir)
			if err != nil {
				return err
			}
			missing = append(missing, e)
			seen[dir] = true
		}
	}
	for _, e := range missing {
		i := c.put.Len()
		c.put.add(&e)
		c.files = append(c.files, 0)
		c.at[e.Path] = int32(i)
	}
	return nil
}

// each calls f for what the layer holds, in order. The first name of a file is the one that is a file, and the others are hard links to
// it: whoever extracts the layer finds the file before its links. It can be called once: what was told is forgotten, for the layer that is made of it
// takes as much memory.
func (c *Changes) each(f func(e Entry, open content) error) error {
	if err := c.complete(); err != nil {
		return err
	}
	order := c.put.sorted(slices.AppendSeq(make([]int32, 0, len(c.at)), maps.Values(c.at)))
	c.at = nil
	first := map[int32]string{} // by content
	for e, i := range c.put.drain(order) {
		var open content
		switch file := c.files[i]; {
		case e.Type != Regular:
		case file < 0:
			open = c.origins[^file].content(e.Path)
		case first[file] != "":
			e = Entry{Path: e.Path, Type: Hardlink, Link: first[file], Mode: e.Mode, UID: e.UID, GID: e.GID, Mtime: e.Mtime}
		default:
			open, first[file] = c.contents[file], e.Path
		}
		if err := f(e, open); err != nil {
			return err
		}
	}
	return nil
}

// Commit writes the layer and returns the ID of the chain with it on top of parent, the chain of the base.
func (s *Store) Commit(ctx context.Context, parent digest.Digest, c *Changes, m Making) (digest.Digest, error) {
	return s.commitNew(parent, m, func(w *Writer) error {
		return c.each(func(e Entry, open content) error {
			if e.Type != Regular {
				return w.Add(e, nil)
			}
			r, err := open()
			if err != nil {
				return err
			}
			defer r.Close()
			return w.Add(e, stoppable{ctx, r})
		})
	})
}

// errUnforeseen says that a layer cannot be foreseen.
var errUnforeseen = errors.New("a file has no digest yet")

// Foresee returns an ID that stands for the chain that Commit would make, and whether that can be told: the digests of all files
// must be known. It is good for Content, Chain and View, in this Store only; its files have no bytes.
func (s *Store) Foresee(parent digest.Digest, c *Changes) (digest.Digest, bool, error) {
	t := &TOC{}
	err := c.each(func(e Entry, _ content) error {
		if e.Type == Regular && e.Digest.IsZero() {
			return errUnforeseen
		}
		t.Entries.add(&e)
		return nil
	})
	if err != nil {
		if errors.Is(err, errUnforeseen) {
			err = nil
		}
		return digest.Digest{}, false, err
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
