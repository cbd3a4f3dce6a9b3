package snapshot

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// Clamp returns the chain with the layers of id in which no file is later than t. The lowest ones, as many as base says,
// came with an image and stay as they are.
func (s *Store) Clamp(ctx context.Context, id digest.Digest, base int, t time.Time) (digest.Digest, error) {
	chains, err := s.Chains(id)
	if err != nil || len(chains) <= base {
		return id, err
	}
	parent := chains[base].Parent
	for _, c := range chains[base:] {
		if parent, err = s.clamp(ctx, parent, c, t.Unix()); err != nil {
			return digest.Digest{}, err
		}
	}
	return parent, nil
}

// clamp puts the layer of c on top of parent, with its times clamped.
func (s *Store) clamp(ctx context.Context, parent digest.Digest, c *Chain, t int64) (digest.Digest, error) {
	toc, err := s.TOC(ctx, c.Layer)
	if err != nil {
		return digest.Digest{}, err
	}
	late := false
	for e := range toc.Entries.All() {
		late = late || e.Mtime > t
	}
	if toc.Opaque || !late { // only layers of images hide all that is below
		return s.append(Chain{Parent: parent, Layer: c.Layer, Content: toc.Content, Tar: c.Tar, Created: c.Created})
	}
	return s.commitNew(parent, Making{Created: c.Created}, func(w *Writer) error {
		for e := range toc.Entries.All() {
			e.Mtime, e.from = min(e.Mtime, t), c
			if err := s.copyEntry(ctx, w, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// copyEntry adds an entry to w with the content that it has.
func (s *Store) copyEntry(ctx context.Context, w *Writer, e Entry) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var content io.ReadCloser = io.NopCloser(strings.NewReader(""))
	if e.Type == Regular {
		var err error
		if content, err = s.openFile(e); err != nil {
			return err
		}
	}
	defer content.Close()
	e.from = nil
	return w.Add(e, content)
}
