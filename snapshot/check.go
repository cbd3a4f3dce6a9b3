package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// CheckChain returns what is wrong with the record of a chain: nil for one that is whole, or gone.
func (s *Store) CheckChain(id digest.Digest) error {
	s.chains.Delete(id) // what counts is on disk
	_, err := s.Chain(id)
	if errors.Is(err, fs.ErrNotExist) && s.HasChain(id) {
		return errors.New("it is no record of this chain")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// HasChain reports whether there is a record of a chain on disk.
func (s *Store) HasChain(id digest.Digest) bool { return !s.disk.Used(chainFile(id)).IsZero() }

// CheckLayer reads everything in the folder of a layer and calls damaged with what is not as it was written, by its name in the
// store. A tree that was made by another isolation, whose owners look different here, is not read: it is counted. Where trees is
// not set none is.
func (s *Store) CheckLayer(ctx context.Context, layer digest.Digest, trees bool, damaged func(name string, err error) error) (unread int, err error) {
	var list []Blob
	if b, err := s.disk.ReadFile(layerFile(layer, "blobs")); err == nil {
		if json.Unmarshal(b, &list) != nil {
			if err := damaged(layerFile(layer, "blobs"), errors.New("it is no list of blobs")); err != nil {
				return 0, err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	s.tocs.Delete(layer)
	toc, err := s.readTOC(layer)
	if err != nil && !s.disk.Used(layerFile(layer, "toc")).IsZero() {
		if err := damaged(layerFile(layer, "toc"), errors.New("it is no table of contents of this layer")); err != nil {
			return 0, err
		}
	}
	for _, t := range s.treeForms(layer) {
		name := layerFile(layer, t.name())
		switch whole, err := s.checkTree(ctx, layer, t, toc, trees); {
		case errors.Is(err, errUnread):
			unread++
		case errors.Is(err, fs.ErrNotExist) && s.disk.Used(name).IsZero(): // evicted, or renamed when it was read back
		case ctx.Err() != nil:
			return unread, context.Cause(ctx)
		case err != nil || !whole:
			if err == nil {
				err = ErrTampered
			}
			if err := damaged(name, err); err != nil {
				return unread, err
			}
		}
	}
	return unread, nil
}

// ErrTampered says that a tree is not what was written: somebody has changed it, or the disk.
var ErrTampered = errors.New("it is not what its table of contents says")

// errUnread says that this process cannot tell whether a tree is whole.
var errUnread = errors.New("its owners look different here")

func (s *Store) checkTree(ctx context.Context, layer digest.Digest, t treeForm, toc *TOC, trees bool) (bool, error) {
	if toc == nil {
		return false, errors.New("it has no table of contents")
	}
	if !trees || t.marked != owners.OneID() {
		return false, errUnread
	}
	return holds(ctx, t.path(s, layer), toc, t.marked)
}
