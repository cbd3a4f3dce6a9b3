package collect

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A Type is what kind of thing a record is, in BuildKit's words.
type Type string

// The types of records.
const (
	Layer      Type = "regular"         // a layer on top of others: what a step made, or of an image
	CacheMount Type = "exec.cachemount" // a folder of RUN --mount=type=cache
	Context    Type = "source.local"    // what is known of the files of a context
	Internal   Type = "internal"        // everything else
)

// A Record is one thing that the store keeps.
type Record struct {
	ID          digest.Digest   `json:"id"`
	Type        Type            `json:"type"`
	Parents     []digest.Digest `json:"parents,omitempty"`
	Description string          `json:"description,omitempty"`
	// Size is what it takes of the disk, in bytes, in all its forms.
	Size int64 `json:"size"`
	// Shared is set when other records have the same bytes.
	Shared bool `json:"shared"`
	// Mutable is set for what changes while it is used.
	Mutable bool `json:"mutable"`
	// InUse is set while a running build relies on it.
	InUse bool `json:"inUse"`
	// Kept says why it is not evicted: "named app:1". It is "" for what can be evicted.
	Kept     string    `json:"kept,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	LastUsed time.Time `json:"lastUsed,omitzero"`
	// Cost is how long it took to make, as far as that is known, in nanoseconds.
	Cost time.Duration `json:"cost,omitempty"`

	name   string // of all but layers: relative to the store
	parent *Record
	layer  *layer
}

// Reclaimable reports whether it can be evicted.
func (r *Record) Reclaimable() bool { return r.Kept == "" }

// A layer is the bytes that one or more records share.
type layer struct {
	inv    *Inventory
	id     digest.Digest
	forms  snapshot.Forms
	size   int64
	users  int  // records
	pulled bool // a name leads to it that came from a registry
	orphan bool // it is in no chain
}

// An Inventory is what a store keeps.
type Inventory struct {
	Records []*Record `json:"records"` // the largest first
	// Total is what the store takes of the disk, in bytes: each layer once, and all that is in no record.
	Total int64 `json:"total"`

	chains   map[digest.Digest]*Record
	layers   map[digest.Digest]*layer
	blobs    map[digest.Digest]int  // in how many layers
	named    map[digest.Digest]bool // configs of images
	nameless []*source.Image
}

// Reclaimable returns how much could be evicted, each layer once.
func (inv *Inventory) Reclaimable() (n int64) {
	users := map[*layer]int{}
	for _, r := range inv.Records {
		if !r.Reclaimable() {
			continue
		}
		if r.layer == nil {
			n += r.Size
		} else if users[r.layer]++; users[r.layer] == r.layer.users {
			n += r.Size
		}
	}
	return n
}

// inventory looks at the whole store.
func (c *Collector) inventory(held func(digest.Digest) bool) (*Inventory, error) {
	inv := &Inventory{chains: map[digest.Digest]*Record{}, layers: map[digest.Digest]*layer{}, blobs: map[digest.Digest]int{},
		named: map[digest.Digest]bool{}, Total: c.meter.last}
	for _, step := range []func(*Inventory) error{c.listLayers, c.listChains, c.listImages, c.listMounts, c.listContexts, c.listRemote} {
		if err := step(inv); err != nil {
			return nil, err
		}
	}
	for _, r := range inv.chains {
		if held(r.ID) || held(r.layer.id) {
			for p := r; p != nil && !p.InUse; p = p.parent {
				p.InUse, p.Kept = true, cmp.Or(p.Kept, "a running build uses it")
			}
		}
		r.Shared = r.layer.users > 1
	}
	inv.settleUse()
	for _, r := range inv.chains {
		inv.Records = append(inv.Records, r)
	}
	slices.SortFunc(inv.Records, func(a, b *Record) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(string(a.Type), string(b.Type)), slices.Compare(a.ID[:], b.ID[:]))
	})
	return inv, nil
}

// listLayers measures the layers.
func (c *Collector) listLayers(inv *Inventory) error {
	for id, err := range c.Layers.LayerIDs() {
		if err != nil {
			return err
		}
		l := &layer{inv: inv, id: id, orphan: true}
		if l.forms, err = c.Layers.Forms(id); err != nil {
			return err
		}
		if l.size, err = c.meter.bytes(l.forms.Dir); err != nil {
			return err
		}
		for _, d := range l.forms.Blobs {
			if inv.blobs[d]++; inv.blobs[d] > 1 {
				continue
			}
			for _, file := range []string{cache.BlobFile(d), snapshot.ChunkFile(d)} {
				n, err := c.meter.bytes(file) // a tar with holes takes less than it is long
				if err != nil {
					return err
				}
				l.size += n
			}
		}
		inv.layers[id] = l
	}
	return nil
}

// listChains makes the records of layers. A chain whose layer is not there, or whose parent, is of no use: it has none.
func (c *Collector) listChains(inv *Inventory) error {
	all := map[digest.Digest]*snapshot.Chain{}
	for id, err := range c.Layers.ChainIDs() {
		if err != nil {
			return err
		}
		chain, err := c.Layers.Chain(id)
		if err == nil {
			all[id] = chain
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var add func(chain *snapshot.Chain) *Record
	add = func(chain *snapshot.Chain) *Record {
		if r, ok := inv.chains[chain.ID]; ok {
			return r
		}
		l := inv.layers[chain.Layer]
		if l == nil {
			return nil
		}
		r := &Record{ID: chain.ID, Type: Layer, Description: cmp.Or(chain.By, "layer of an image"), Size: l.size, Created: chain.Created,
			LastUsed: c.Layers.Used(chain.ID), Cost: chain.Took, layer: l}
		if !chain.Parent.IsZero() {
			below := all[chain.Parent]
			if below == nil {
				return nil
			}
			if r.parent = add(below); r.parent == nil {
				return nil
			}
			r.Parents = []digest.Digest{chain.Parent}
		}
		l.users++
		l.orphan = false
		inv.chains[chain.ID] = r
		return r
	}
	for _, chain := range all {
		add(chain)
	}
	return nil
}

// listImages finds out what names need. A tag needs all of the image it was built for. An image that came from a registry can be
// had again, if its layers can: only its record stays. One without a name goes with its layers.
func (c *Collector) listImages(inv *Inventory) error {
	images, err := c.Images.List()
	if err != nil {
		return err
	}
	for _, img := range images {
		inv.named[img.Config] = true
		if img.Name == "" {
			inv.nameless = append(inv.nameless, img)
			continue
		}
		again := !img.Built
		for _, id := range img.Layers {
			l := inv.layers[id]
			again = again && l != nil && l.forms.Elsewhere
			if l != nil && !img.Built {
				l.pulled = true
			}
		}
		if again {
			continue
		}
		top := inv.chains[snapshot.ChainOf(img.Layers)]
		for r := top; r != nil; r = r.parent {
			r.Kept = "named " + img.Familiar()
		}
		for _, id := range img.Layers {
			if l := inv.layers[id]; l != nil && top == nil { // the record of the chain is damaged: its layers are not
				l.users++
				l.orphan = false
			}
		}
	}
	return nil
}

// settleUse gives records the time when the last one was used that needs them.
func (inv *Inventory) settleUse() {
	for _, r := range inv.chains {
		for p := r.parent; p != nil && p.LastUsed.Before(r.LastUsed); p = p.parent {
			p.LastUsed = r.LastUsed
		}
	}
}

// listMounts makes the records of cache mounts. Steps hold a lock on those they have mounted.
func (c *Collector) listMounts(inv *Inventory) error {
	const dir = "mounts"
	return c.each(filepath.Join(dir, "*", "*"), func(name string) error {
		r := &Record{ID: digest.Of([]byte(name)), Type: CacheMount, Description: "cache mount " + name, Mutable: true, name: name,
			LastUsed: c.Disk.Used(filepath.Dir(name))}
		unlock, err := c.Disk.TryLock(name)
		if err != nil {
			return err
		}
		if unlock == nil {
			r.InUse, r.Kept = true, "a running build uses it"
		} else {
			unlock()
		}
		r.Size, err = c.meter.bytes(name)
		inv.Records = append(inv.Records, r)
		return err
	})
}

// listContexts makes the records of what is known about files of contexts.
func (c *Collector) listContexts(inv *Inventory) error {
	return c.listFiles(inv, filepath.Join("contexts", "*", "*"), Context, "digests of the files of a context")
}

// listRemote makes the records of what is known about places elsewhere.
func (c *Collector) listRemote(inv *Inventory) error {
	return c.listFiles(inv, filepath.Join("remote", "*", "*"), Internal, "what was found at a URL or in a repository")
}

func (c *Collector) listFiles(inv *Inventory, pattern string, t Type, description string) error {
	return c.each(pattern, func(name string) error {
		size, err := c.meter.bytes(name)
		inv.Records = append(inv.Records, &Record{ID: digest.Of([]byte(name)), Type: t, Description: description, Size: size, name: name,
			LastUsed: c.Disk.Used(name)})
		return err
	})
}

// each calls f for the names of the store that match a pattern.
func (c *Collector) each(pattern string, f func(name string) error) error {
	names, err := fs.Glob(os.DirFS(c.Disk.Root()), pattern)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f(name); err != nil {
			return err
		}
	}
	return nil
}
