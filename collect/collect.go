// Package collect decides what the store keeps. It lists what there is and why it is kept, evicts what is worth the least
// when there is too much, and checks that all of it is whole.
//
// What a tag or a running build needs is never evicted. Everything else can be made again, so a mistake here costs time
// and not a result.
package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A Collector looks after one store, which other processes use at the same time. It is safe for concurrent use.
type Collector struct {
	Disk   *cache.Store
	Layers *snapshot.Store
	Images *source.Images
	Now    func() time.Time

	mu    sync.Mutex
	meter *meter
}

// A Report says what an eviction has done.
type Report struct {
	Evicted []*Record `json:"evicted"`
	Freed   int64     `json:"freed"` // in bytes
	Total   int64     `json:"total"` // what the store takes now
}

// headroom is the part of a limit that an eviction makes free at once: one that frees only what is too much would be
// followed by another one after the next step.
const headroom = 10

// Enforce evicts until the store takes no more than limit, in bytes, as far as it can: what tags and running builds need stays. A
// store that takes less is only measured, which costs a stat for each of its folders.
func (c *Collector) Enforce(ctx context.Context, limit int64) (*Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	total, err := c.measure()
	if err != nil || total <= limit {
		return &Report{Total: total}, err
	}
	return c.evict(ctx, Policy{Keep: limit, Goal: limit - limit/headroom, Why: "by the size limit"})
}

// A Policy says what Evict evicts.
type Policy struct {
	// Match, when not nil, says what may be evicted; it is asked for what can be made again only.
	Match func(*Record) bool
	// All is set to evict as well what frees nothing now, and what is only remembered of contexts and remote places.
	All bool
	// Keep is how much the store may take: as long as it takes no more, nothing is evicted.
	Keep int64
	// Goal is how much it takes after an eviction, if more than Keep was there.
	Goal int64
	// Space, when it says anything, is where Keep and Goal come from.
	Space Space
	// Why is how people are told: "evicted 2 hours ago by the size limit".
	Why string
}

// Evict evicts what a policy says.
func (c *Collector) Evict(ctx context.Context, p Policy) (*Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.measure(); err != nil {
		return nil, err
	}
	return c.evict(ctx, p)
}

// List returns what there is, with the reasons why it is kept, and how much the store takes in all.
func (c *Collector) List(ctx context.Context) (*Inventory, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.measure(); err != nil {
		return nil, err
	}
	var inv *Inventory
	err := c.Disk.Alone(ctx, func(held func(digest.Digest) bool) (err error) {
		inv, err = c.inventory(held)
		return err
	})
	return inv, errors.Join(err, c.meter.save())
}

func (c *Collector) measure() (int64, error) {
	if c.meter == nil {
		c.meter = newMeter(c.Disk)
	}
	return c.meter.total()
}

// evict carries out p. One process does so at a time: two would both free what one of them has to.
func (c *Collector) evict(ctx context.Context, p Policy) (*Report, error) {
	unlock, err := c.Disk.Lock(ctx, "collect")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.Disk.CleanTemp(); err != nil {
		return nil, err
	}
	trash, err := c.Disk.NewTrash()
	if err != nil {
		return nil, err
	}
	r := &Report{}
	err = c.Disk.Alone(ctx, func(held func(digest.Digest) bool) error {
		inv, err := c.inventory(held)
		if err != nil {
			return err
		}
		if p.Space != (Space{}) {
			free, err := free(c.Disk.Root())
			if err != nil {
				return err
			}
			p.Keep = p.Space.keep(inv.Total, free)
			p.Goal = p.Keep
		}
		r.Evicted = choose(inv, p, c.Now())
		e := &eviction{Collector: c, inv: inv, trash: trash, policy: p}
		return e.take(r.Evicted, held)
	})
	if err = errors.Join(err, trash.Empty()); err != nil {
		return nil, fmt.Errorf("evict from the store: %w", err)
	}
	before := c.meter.last
	r.Total, err = c.measure()
	r.Freed = max(before-r.Total, 0)
	return r, errors.Join(err, c.meter.save())
}

// An eviction is one pass over the store, while nobody else can begin to rely on what is in it.
type eviction struct {
	*Collector
	inv    *Inventory
	trash  *cache.Trash
	policy Policy
}

// memory is how long the index says why something is not there any more.
const memory = 30 * 24 * time.Hour

// take removes what was chosen and what nothing leads to. Names go before what they lead to: a process that is killed in
// between leaves things without a name, which the next pass takes.
func (e *eviction) take(chosen []*Record, held func(digest.Digest) bool) error {
	gone := map[digest.Digest]bool{}
	for _, r := range chosen {
		if r.Type == Layer {
			gone[r.ID] = true
		}
	}
	if err := e.entries(gone, held); err != nil {
		return err
	}
	for _, img := range e.inv.nameless {
		if gone[snapshot.ChainOf(img.Layers)] {
			if err := e.Images.Evict(e.trash, img); err != nil {
				return err
			}
			delete(e.inv.named, img.Config)
		}
	}
	for _, r := range chosen {
		if err := e.record(r); err != nil {
			return err
		}
	}
	return e.garbage(held)
}

// entries replaces the index entries of what is gone by the reason. Those that lead nowhere, and old reasons, are removed.
func (e *eviction) entries(gone map[digest.Digest]bool, held func(digest.Digest) bool) error {
	now := e.Now().UTC().Truncate(time.Second)
	for entry, err := range e.Disk.Entries() {
		if err != nil {
			return err
		}
		d := entry.Result
		switch {
		case gone[d]:
			err = e.Disk.Evict(entry.Key, cache.Eviction{At: now, Why: e.policy.Why})
		case entry.Damaged(), d.IsZero() && now.Sub(entry.Eviction.At) > memory, !d.IsZero() && e.inv.chains[d] == nil && !held(d):
			err = e.Disk.Forget(entry.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// record removes one record.
func (e *eviction) record(r *Record) error {
	switch r.Type {
	case Layer:
		if err := e.Layers.EvictChain(e.trash, r.ID); err != nil {
			return err
		}
		if r.layer.users--; r.layer.users > 0 {
			return nil
		}
		return e.layer(r.layer)
	case CacheMount:
		unlock, err := e.Disk.TryLock(r.name)
		if err != nil || unlock == nil {
			return err // a step has taken it meanwhile
		}
		defer unlock()
		return e.trash.Take(r.name)
	}
	return e.trash.Take(r.name)
}

// layer removes all forms of a layer that no other one and no image has.
func (e *eviction) layer(l *layer) error {
	for _, d := range l.forms.Blobs {
		if l.inv.blobs[d]--; l.inv.blobs[d] > 0 || l.inv.named[d] {
			continue
		}
		if err := errors.Join(e.trash.Take(cache.BlobFile(d)), e.trash.Take(snapshot.ChunkFile(d))); err != nil {
			return err
		}
	}
	return e.Layers.EvictLayer(e.trash, l.id, l.pulled && l.forms.Elsewhere)
}

// garbage removes layers that are in no chain, blobs that nothing names, unless somebody is about to name them, and lists of chunks of
// blobs that are gone.
func (e *eviction) garbage(held func(digest.Digest) bool) error {
	for _, l := range e.inv.layers {
		if l.orphan && !held(l.id) && !l.pulled {
			if err := e.layer(l); err != nil {
				return err
			}
		}
	}
	for d, err := range e.Disk.Digests(cache.BlobDir) {
		if err == nil && e.inv.blobs[d] == 0 && !e.inv.named[d] && !held(d) {
			err = e.trash.Take(cache.BlobFile(d))
		}
		if err != nil {
			return err
		}
	}
	for d, err := range e.Disk.Digests(snapshot.ChunkDir) {
		if err == nil && e.Disk.Used(cache.BlobFile(d)).IsZero() {
			err = e.trash.Take(snapshot.ChunkFile(d))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
