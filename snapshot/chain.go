package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Chain is a root file system as a layer on top of another chain. Its ID is
// the ChainID of the OCI image specification; the zero ID is scratch, the empty root.
type Chain struct {
	ID     digest.Digest `json:"-"`
	Parent digest.Digest `json:"parent"`
	Layer  digest.Digest `json:"layer"` // the diff ID of the topmost layer
	// Content names what the chain holds, whenever its layers were made. Layers that come with an
	// image count by their diff IDs, which are known before they are downloaded.
	Content digest.Digest `json:"content"`
	// Tar is the size in bytes of the layer's tar, where that is the form it was made in. It is 0 for others.
	Tar int64 `json:"tar,omitempty"`
	// Created is when the layer was made, in UTC; zero for layers that come with an image.
	Created time.Time `json:"created"`
	Made
}

// Made says how a chain came to be. It is for people, and for who decides what is worth keeping.
type Made struct {
	By   string        `json:"by,omitempty"`   // the step, like "[build 2/5] RUN make"
	Took time.Duration `json:"took,omitempty"` // in nanoseconds
}

// chainID implements the ChainID recursion of the OCI image specification.
func chainID(parent, layer digest.Digest) digest.Digest {
	if parent.IsZero() {
		return layer
	}
	return digest.Of([]byte(parent.String() + " " + layer.String()))
}

func chainFile(id digest.Digest) string {
	h := id.Hex()
	return filepath.Join(chainDir, h[:2], h[2:])
}

// Append records the chain that has layer on top of parent, holds it and returns its ID. When
// that chain is known already it is left as it is, its time included.
func (s *Store) Append(parent, layer, content digest.Digest, created time.Time) (digest.Digest, error) {
	return s.append(Chain{Parent: parent, Layer: layer, Content: content, Created: created})
}

// append is Append of a chain whose Content is that of its layer alone.
func (s *Store) append(c Chain) (digest.Digest, error) {
	c.ID = chainID(c.Parent, c.Layer)
	if known, err := s.use(c.ID); err != nil || known {
		return c.ID, err
	}
	below, err := s.Content(c.Parent)
	if err != nil {
		return c.ID, err
	}
	// Two steps may make the same chain at once. Whoever is second must not change its time, which is in the first one's image already.
	unlock, err := s.disk.Lock(context.Background(), "chain/"+c.ID.Hex())
	if err != nil {
		return c.ID, err
	}
	defer unlock()
	if known, err := s.use(c.ID); err != nil || known {
		return c.ID, err
	}
	c.Content, c.Created = chainContent(below, c.Content), c.Created.UTC()
	return c.ID, s.writeChain(&c)
}

func (s *Store) writeChain(c *Chain) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := s.disk.WriteFile(chainFile(c.ID), append(b, '\n')); err != nil {
		return err
	}
	s.chains.Store(c.ID, c)
	return nil
}

// use holds a chain, remembers that it is used now, and reports whether its record is there. Once is enough: what is held stays.
func (s *Store) use(id digest.Digest) (bool, error) {
	if _, ok := s.used.Load(id); !ok {
		if err := s.disk.Hold(id); err != nil {
			return false, err
		}
		s.chains.Delete(id) // another process may have evicted it since it was read
		if err := s.disk.Touch(chainFile(id)); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		s.used.Store(id, true)
	}
	_, err := s.Chain(id)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Describe adds to a chain how it was made, unless that is known.
func (s *Store) Describe(id digest.Digest, made Made) error {
	c, err := s.Chain(id)
	if err != nil || c.Made != (Made{}) || made == (Made{}) {
		return err
	}
	described := *c
	described.Made = made
	return s.writeChain(&described)
}

// chainContent names what a chain holds by the content of what is below its topmost layer, and of that.
func chainContent(below, layer digest.Digest) digest.Digest {
	h := digest.NewHasher("chain/v1")
	h.Digest("parent", below)
	h.Digest("layer", layer)
	return h.Sum()
}

// AppendImage records the chain of an image's layers, lowest first, and returns its ID.
func (s *Store) AppendImage(layers []digest.Digest) (id digest.Digest, err error) {
	for _, l := range layers {
		if id, err = s.Append(id, l, l, time.Time{}); err != nil {
			return id, err
		}
	}
	return id, nil
}

// Stack records the chain that has the layers of upper, as they are, on top of lower, and returns its ID.
func (s *Store) Stack(lower, upper digest.Digest) (digest.Digest, error) {
	chains, err := s.Chains(upper)
	if err != nil {
		return digest.Digest{}, err
	}
	for _, c := range chains {
		// The content of c counts what is below it too: that may make two equal stacks differ, never the reverse.
		if lower, err = s.append(Chain{Parent: lower, Layer: c.Layer, Content: c.Content, Tar: c.Tar, Created: c.Created}); err != nil {
			return digest.Digest{}, err
		}
		if err := s.Describe(lower, c.Made); err != nil {
			return digest.Digest{}, err
		}
	}
	return lower, nil
}

// Chain returns the record of a chain. One that is missing or damaged is fs.ErrNotExist.
func (s *Store) Chain(id digest.Digest) (*Chain, error) {
	if c, ok := s.chains.Load(id); ok {
		return c.(*Chain), nil
	}
	b, err := s.disk.ReadFile(chainFile(id))
	if err != nil {
		return nil, fmt.Errorf("chain %s: %w", id, err)
	}
	c := &Chain{}
	if err := json.Unmarshal(b, c); err != nil || chainID(c.Parent, c.Layer) != id || c.Content.IsZero() {
		return nil, fmt.Errorf("chain %s: damaged: %w", id, fs.ErrNotExist)
	}
	c.ID = id
	s.chains.Store(id, c)
	return c, nil
}

// Chains returns the records from the lowest layer up to id.
func (s *Store) Chains(id digest.Digest) ([]*Chain, error) {
	var list []*Chain
	for !id.IsZero() {
		c, err := s.Chain(id)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
		id = c.Parent
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}

// Content returns the content digest of a chain: what a cache key counts.
func (s *Store) Content(id digest.Digest) (digest.Digest, error) {
	if id.IsZero() {
		return digest.Digest{}, nil
	}
	c, err := s.Chain(id)
	if err != nil {
		return digest.Digest{}, err
	}
	return c.Content, nil
}
