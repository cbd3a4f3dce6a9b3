package snapshot

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// The folders of the store that this package keeps things in, by digest.
const (
	chainDir = "chains"
	layerDir = "layers"
)

// ChainIDs are the chains that have a record, be it damaged.
func (s *Store) ChainIDs() iter.Seq2[digest.Digest, error] { return s.disk.Digests(chainDir) }

// LayerIDs are the layers of which something is kept, be it only where they lie.
func (s *Store) LayerIDs() iter.Seq2[digest.Digest, error] { return s.disk.Digests(layerDir) }

// ChainOf returns the ID of the chain of these layers, lowest first.
func ChainOf(layers []digest.Digest) (id digest.Digest) {
	for _, l := range layers {
		id = chainID(id, l)
	}
	return id
}

// ChainFile returns the name of the record of a chain, relative to the store.
func (s *Store) ChainFile(id digest.Digest) string { return chainFile(id) }

// Used returns when a chain itself was used the last time; chains that it is part of may have been used later.
func (s *Store) Used(id digest.Digest) time.Time { return s.disk.Used(chainFile(id)) }

// Forms are what the store has of a layer.
type Forms struct {
	Dir   string          // its folder, relative to the store
	Trees []string        // in the folder
	Blobs []digest.Digest // of the blobs that are here; there may be a ChunkFile of each
	// Elsewhere is set when an origin has the layer too.
	Elsewhere bool
}

// Forms returns what is here of a layer.
func (s *Store) Forms(layer digest.Digest) (Forms, error) {
	f := Forms{Dir: layerFile(layer, "")}
	entries, err := os.ReadDir(s.disk.Path(f.Dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	for _, e := range entries {
		if IsTree(e.Name()) {
			f.Trees = append(f.Trees, e.Name())
		}
	}
	blobs, err := s.Blobs(layer)
	for _, b := range append(blobs, Blob{Digest: layer}) {
		if _, here := s.disk.BlobSize(b.Digest); here {
			f.Blobs = append(f.Blobs, b.Digest)
		}
		f.Elsewhere = f.Elsewhere || len(b.Origins) > 0
	}
	return f, err
}

// IsTree reports whether a name in the folder of a layer is that of a tree.
func IsTree(name string) bool { _, ok := parseTreeForm(name); return ok }

// EvictChain removes the record of a chain.
func (s *Store) EvictChain(trash *cache.Trash, id digest.Digest) error {
	s.chains.Delete(id)
	s.used.Delete(id)
	return trash.Take(chainFile(id))
}

// EvictLayer removes what is in the folder of a layer. With origins set, only what has to be there to fetch it again stays.
func (s *Store) EvictLayer(trash *cache.Trash, layer digest.Digest, origins bool) error {
	s.tocs.Delete(layer)
	dir := layerFile(layer, "")
	if !origins {
		return trash.Take(dir)
	}
	entries, err := os.ReadDir(s.disk.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != "blobs" {
			err = errors.Join(err, trash.Take(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
