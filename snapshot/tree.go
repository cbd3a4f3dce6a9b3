package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/safefs"
)

// unpackers is how many layers are unpacked at once.
const unpackers = 4

// Trees returns the trees of a chain's layers, the topmost first, as overlayfs takes them for
// lower directories. Those that are missing are made. A tree that is in the chain more than once is
// returned once, at its topmost place: there it hides all that it has further down.
func (s *Store) Trees(ctx context.Context, id digest.Digest) ([]string, error) {
	chains, err := s.Chains(id)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(chains))
	g, unpacking := errgroup.WithContext(ctx)
	g.SetLimit(unpackers)
	for i, c := range chains {
		if tree, ok := s.usualTree(c.Layer); ok {
			out[len(chains)-1-i] = tree
			continue
		}
		g.Go(func() (err error) {
			out[len(chains)-1-i], err = s.tree(unpacking, c)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if out, err = s.visible(ctx, chains, out); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(out, func(tree string) bool {
		again := seen[tree]
		seen[tree] = true
		return again
	}), nil
}

// visible leaves out of trees, the topmost first, those below a layer that hides all of them: overlayfs takes the roots
// of all its lower directories together.
func (s *Store) visible(ctx context.Context, chains []*Chain, trees []string) ([]string, error) {
	for i, c := range slices.Backward(chains) {
		toc, err := s.TOC(ctx, c.Layer)
		if err != nil {
			return nil, err
		}
		if toc.Opaque {
			return trees[:len(chains)-i], nil
		}
	}
	return trees, nil
}

// tree returns the sound tree of the chain's topmost layer, and makes it where it is missing.
func (s *Store) tree(ctx context.Context, c *Chain) (string, error) {
	t, ok := s.findTree(c)
	if ok && !t.sound(s.boot) {
		return s.prove(ctx, c)
	}
	if ok {
		return t.path(s, c.Layer), nil
	}
	tmp, err := s.disk.NewTempDir()
	if err != nil {
		return "", err
	}
	defer tmp.Remove()
	toc, err := s.unpack(ctx, c, tmp.Join("tree"))
	if err != nil {
		return "", err
	}
	if toc == nil { // another process was first
		return s.tree(ctx, c)
	}
	t = treeForm{marked: owners.OneID(), boot: s.boot}
	if implied := toc.impliedDirs(); len(implied) > 0 {
		t.chain = c.ID.Hex()
		if err := s.fillImplied(ctx, c, tmp.Join("tree"), implied); err != nil {
			return "", err
		}
	}
	return t.path(s, c.Layer), s.disk.Publish(tmp.Join("tree"), layerFile(c.Layer, t.name()))
}

// unpack extracts a layer into the new folder dir. When another process made the tree meanwhile, it returns nil.
func (s *Store) unpack(ctx context.Context, c *Chain, dir string) (*TOC, error) {
	unlock, err := s.disk.Lock(ctx, "layer/"+c.Layer.Hex())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := s.findTree(c); ok {
		return nil, nil
	}
	r, from, err := s.openStream(ctx, c.Layer)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	x, err := newExtractor(dir)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	toc, err := readLayer(ctx, r, x.entry)
	if err == nil {
		err = errors.Join(x.hide(toc), x.finish())
	}
	if err != nil {
		return nil, s.diagnose(ctx, c.Layer, fmt.Errorf("layer %s: %w", c.Layer, err))
	}
	if err := s.settle(ctx, c.Layer, from, toc); err != nil {
		return nil, err
	}
	return toc, s.writeTOC(toc)
}

// diagnose looks for damaged blobs of a layer whose reading ended with err: damage may keep a reader from the end, where
// it shows. What is damaged is removed and named.
func (s *Store) diagnose(ctx context.Context, layer digest.Digest, err error) error {
	var damaged *cache.DamagedError
	if errors.As(err, &damaged) || ctx.Err() != nil {
		return err
	}
	blobs, _ := s.Blobs(layer)
	for _, b := range append(blobs, Blob{Digest: layer}) {
		if e := s.disk.CheckBlob(b.Digest); errors.As(e, &damaged) {
			return e
		}
	}
	return err
}

// impliedDirs returns the directories that entries of t are in and that t has no entry for, parents first.
func (t *TOC) impliedDirs() []string {
	var out []string
	known := map[string]bool{".": true}
	var add func(dir string)
	add = func(dir string) {
		if known[dir] {
			return
		}
		known[dir] = true
		if _, ok := t.Entries.find(dir); !ok {
			add(parentOf(dir))
			out = append(out, dir)
		}
	}
	for i := range t.Entries.Len() {
		add(parentOf(t.Entries.path(i)))
	}
	return out
}

// fillImplied gives implied directories of a tree the metadata they have in the layers below.
func (s *Store) fillImplied(ctx context.Context, c *Chain, dir string, implied []string) error {
	below, err := s.View(ctx, c.Parent)
	if err != nil {
		return err
	}
	root, err := safefs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := len(implied) - 1; i >= 0; i-- { // children first, so that times of parents stay
		e, ok, err := below.Lstat(implied[i])
		if err != nil {
			return err
		}
		if !ok || e.Type != Dir {
			e = Entry{Path: implied[i], Type: Dir, Mode: 0o755}
		}
		if err := setMetadata(root, &e, owners.OneID()); err != nil {
			return err
		}
	}
	return nil
}

// CommitTree makes a layer of dir, the used upper directory of an overlay on parent, and returns the
// chain of both. The folder becomes the layer's tree: it is moved away.
func (s *Store) CommitTree(ctx context.Context, parent digest.Digest, dir string, m Making) (digest.Digest, error) {
	below, err := s.View(ctx, parent)
	if err != nil {
		return digest.Digest{}, err
	}
	tap := m.tap(false)
	defer tap.end()
	w := NewWriter(tap.over(io.Discard))
	if err := capture(ctx, w, dir, captureOptions{below: below, marked: owners.OneID(), links: m.Links}); err != nil {
		return digest.Digest{}, err
	}
	toc, err := w.Close()
	if err != nil {
		return digest.Digest{}, err
	}
	id, err := s.commit(parent, toc, 0, m.Created, func() error { return s.keepTree(ctx, toc.DiffID, dir) })
	if err == nil {
		tap.name(toc.DiffID)
	}
	return id, err
}

// tarFromTree makes the tar of a captured layer again. At its end the bytes are checked against the
// diff ID: a tree that somebody changed is a *cache.DamagedError, and removed.
func (s *Store) tarFromTree(ctx context.Context, layer digest.Digest, t treeForm) (io.ReadCloser, error) {
	toc, err := s.readTOC(layer)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() {
		w := NewWriter(pw)
		dir := t.path(s, layer)
		err := capture(ctx, w, dir, captureOptions{known: toc, marked: t.marked})
		if err == nil {
			var got *TOC
			if got, err = w.Close(); err == nil && got.DiffID != layer {
				err = s.dropTree(layer, dir, errAltered)
			}
		}
		pw.CloseWithError(err)
	}()
	return pr, nil
}

// errAltered says that a tree is no more what was captured.
var errAltered = errors.New("it was changed after it was made")

// openFile opens the content of a file of a layer, from its tar or its tree. The bytes are
// checked against the entry's digest at their end.
func (s *Store) openFile(e Entry) (io.ReadCloser, error) {
	f, err := s.disk.OpenBlob(e.from.Layer)
	if err == nil && e.Offset >= 0 {
		body := io.NewSectionReader(f, e.Offset, e.Size)
		damaged := func() error {
			return s.diagnose(context.Background(), e.from.Layer, fmt.Errorf("layer %s: %s: its bytes have another digest", e.from.Layer, e.Path))
		}
		return &checkedFile{r: body, c: f, h: sha256.New(), want: e.Digest, damaged: damaged}, nil
	}
	if err == nil {
		f.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, err := s.tree(context.Background(), e.from)
	if err != nil {
		return nil, err
	}
	root, err := safefs.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if f, err = root.OpenFile(e.Path); err != nil {
		return nil, err
	}
	damaged := func() error { return s.dropTree(e.from.Layer, dir, errAltered) }
	return &checkedFile{r: f, c: f, h: sha256.New(), want: e.Digest, damaged: damaged}, nil
}

// A checkedFile reports content that is not what its entry says in place of io.EOF.
type checkedFile struct {
	r    io.Reader
	c    io.Closer
	h    hash.Hash
	want digest.Digest
	// damaged removes the form of the layer that the bytes came from, and no other: it may be the last sound one.
	damaged func() error
}

func (f *checkedFile) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.h.Write(p[:n])
	if err == io.EOF && !bytes.Equal(f.h.Sum(nil), f.want[:]) {
		err = f.damaged()
	}
	return n, err
}

func (f *checkedFile) Close() error { return f.c.Close() }
