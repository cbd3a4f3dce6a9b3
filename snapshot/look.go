package snapshot

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Look tells which chains can be used. It remembers them, so that to ask for one chain after the other of a stack costs each layer
// once. When something is found damaged afterwards, a new Look is needed. It is safe for concurrent use.
type Look struct {
	store *Store
	whole sync.Map // digest.Digest -> true: chains that have all of their layers
}

// Look returns a new Look.
func (s *Store) Look() *Look { return &Look{store: s} }

// Usable is that of a new Look.
func (s *Store) Usable(id digest.Digest) (bool, error) { return s.Look().Usable(id) }

// Usable reports whether every layer of a chain is there, or can be fetched, and holds the chain. It looks at records and sizes only.
func (l *Look) Usable(id digest.Digest) (bool, error) {
	if id.IsZero() {
		return true, nil
	}
	if known, err := l.store.use(id); err != nil || !known {
		return false, err
	}
	var chains []*Chain // those that nobody has looked at
	for at := id; !at.IsZero(); {
		if _, ok := l.whole.Load(at); ok {
			break
		}
		c, err := l.store.Chain(at)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		chains = append(chains, c)
		at = c.Parent
	}
	if !l.store.hasLayers(chains) {
		return false, nil
	}
	l.whole.Store(id, true)
	return true, nil
}

// lookers is how many layers are looked for at once: there may be thousands, each in some folders of its own.
const lookers = 4

// hasLayers reports whether every layer is there, or can be fetched.
func (s *Store) hasLayers(chains []*Chain) bool {
	if len(chains) <= lookers { // which takes less than to start a thread
		return !slices.ContainsFunc(chains, func(c *Chain) bool { return !s.hasLayer(c) })
	}
	var missing atomic.Bool
	var all sync.WaitGroup
	for part := range slices.Chunk(chains, max(1, (len(chains)+lookers-1)/lookers)) {
		all.Go(func() {
			for _, c := range part {
				if missing.Load() {
					return
				}
				if !s.hasLayer(c) {
					missing.Store(true)
				}
			}
		})
	}
	all.Wait()
	return !missing.Load()
}

// hasLayer reports whether the topmost layer of c has a form here, or an origin elsewhere.
func (s *Store) hasLayer(c *Chain) bool {
	if c.Tar == 0 {
		if _, ok := s.usualTree(c.Layer); ok {
			return true
		}
	}
	n, ok := s.disk.BlobSize(c.Layer)
	if ok && c.Tar != 0 && n == c.Tar {
		return true
	}
	if ok {
		if toc, err := s.readTOC(c.Layer); err == nil && toc.Size == n {
			return true
		}
	}
	if s.hasTree(c) {
		return true
	}
	if ok {
		return false
	}
	blobs, err := s.Blobs(c.Layer)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(blobs, func(b Blob) bool {
		return s.hasBlob(b) || len(b.Origins) > 0
	})
}
