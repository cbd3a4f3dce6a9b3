package collect

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A Damage is something in the store that is not what was written.
type Damage struct {
	Name    string `json:"name"` // relative to the store
	Problem string `json:"problem"`
	Removed bool   `json:"removed"`
}

// A Check reads all of a store.
type Check struct {
	// Repair removes what is damaged: it is a miss then, and is made again when it is needed.
	Repair bool
	// Trees says that the owners of files look as they did when they were written: trees can be read.
	Trees bool
	// Found is called for each damage.
	Found func(Damage)
}

// A Checked says how much was read.
type Checked struct {
	Entries int `json:"entries"`
	Chains  int `json:"chains"`
	Layers  int `json:"layers"`
	Blobs   int `json:"blobs"`
	Images  int `json:"images"`
	// Unread counts trees that cannot be told to be whole here.
	Unread  int `json:"unreadTrees"`
	Damaged int `json:"damaged"`
}

// Check reads the whole store and compares it with what its names say. Builds may be running.
func (c *Collector) Check(ctx context.Context, how Check) (*Checked, error) {
	k := &checker{Collector: c, Check: how, tampered: map[digest.Digest]bool{}}
	if how.Repair {
		if err := c.Disk.CleanTemp(); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{k.blobs, k.layers, k.chains, k.entries, k.derived, k.records, k.images} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &k.seen, nil
}

type checker struct {
	*Collector
	Check
	seen     Checked
	tampered map[digest.Digest]bool // layers with a tree that is not what it was
}

// damaged tells about one damage, and removes it.
func (k *checker) damaged(name string, problem error) error {
	k.seen.Damaged++
	d := Damage{Name: name, Problem: problem.Error()}
	if k.Repair {
		if err := cache.RemoveAll(k.Disk.Path(name)); err != nil {
			return err
		}
		d.Removed = true
	}
	k.Found(d)
	return nil
}

func (k *checker) entries(ctx context.Context) error {
	for e, err := range k.Disk.Entries() {
		if err == nil {
			err = context.Cause(ctx)
		}
		k.seen.Entries++
		switch {
		case err != nil:
		case e.Damaged():
			err = k.damaged(e.Key.File(), errors.New("it is no index entry"))
		case !e.Result.IsZero() && !k.Layers.HasChain(e.Result):
			err = k.dangling(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// derived tells about entries that lead to what was made on a tampered tree: the keys are those of what is made on a sound one. What a step took from
// such a tree without being made on it was compared as it was read, but for what its process saw in a mount.
func (k *checker) derived(context.Context) error {
	if len(k.tampered) == 0 {
		return nil
	}
	known := map[digest.Digest]bool{}
	var on func(id digest.Digest) bool // reports whether a tampered layer is in a chain
	on = func(id digest.Digest) bool {
		if is, ok := known[id]; ok {
			return is
		}
		c, err := k.Layers.Chain(id)
		known[id] = err == nil && (k.tampered[c.Layer] || on(c.Parent))
		return known[id]
	}
	for e, err := range k.Disk.Entries() {
		if err != nil {
			return err
		}
		c, err := k.Layers.Chain(e.Result)
		if e.Result.IsZero() || err != nil || !on(c.Parent) {
			continue
		}
		if err := k.damaged(e.Key.File(), errors.New("it leads to what was made on a damaged tree")); err != nil {
			return err
		}
	}
	return nil
}

// dangling tells about an entry that leads to nothing, unless it was evicted since it was read: then it says so now.
func (k *checker) dangling(ctx context.Context, e cache.Entry) error {
	again, ok, err := k.Disk.Lookup(ctx, e.Key)
	if err != nil || !ok || again != e.Result || k.Layers.HasChain(e.Result) {
		return err
	}
	return k.damaged(e.Key.File(), errors.New("it leads to a result that is not there"))
}

func (k *checker) blobs(ctx context.Context) error {
	for want, err := range k.Disk.Digests(cache.BlobDir) {
		if err != nil {
			return err
		}
		k.seen.Blobs++
		f, err := k.Disk.OpenBlob(want)
		if errors.Is(err, fs.ErrNotExist) {
			continue // evicted meanwhile
		}
		if err != nil {
			return err
		}
		got, err := digest.FromReader(ctx, f)
		f.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && got != want {
			err = errors.New("its bytes have another digest")
		}
		if err != nil { // a disk that cannot be read is damage as well
			if err := k.damaged(cache.BlobFile(want), err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checker) layers(ctx context.Context) error {
	for id, err := range k.Layers.LayerIDs() {
		if err != nil {
			return err
		}
		k.seen.Layers++
		unread, err := k.Layers.CheckLayer(ctx, id, k.Trees, func(name string, problem error) error {
			k.tampered[id] = k.tampered[id] || errors.Is(problem, snapshot.ErrTampered)
			return k.damaged(name, problem)
		})
		if err != nil {
			return err
		}
		k.seen.Unread += unread
	}
	return nil
}

func (k *checker) chains(ctx context.Context) error {
	for id, err := range k.Layers.ChainIDs() {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		k.seen.Chains++
		if problem := k.Layers.CheckChain(id); problem != nil {
			if err := k.damaged(k.Layers.ChainFile(id), problem); err != nil {
				return err
			}
		}
	}
	return nil
}

// records reads what is remembered to save time.
func (k *checker) records(ctx context.Context) error {
	isJSON := func(b []byte) bool { return json.Valid(b) }
	for pattern, whole := range map[string]func([]byte) bool{"contexts/*/*": source.IsStatIndex, "remote/*/*": isJSON, "host/*.json": isJSON, deepFile: isJSON,
		snapshot.ChunkDir + "/*/*": snapshot.IsChunkList} {
		err := k.each(pattern, func(name string) error {
			b, err := k.Disk.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && !whole(b) {
				err = k.damaged(name, errors.New("it is cut short, or not what was written"))
			}
			return errors.Join(err, context.Cause(ctx))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// images reads what names lead to. It comes last, when what is damaged is gone.
func (k *checker) images(ctx context.Context) error {
	files, err := k.Images.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		list, err := k.Images.Read(f)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			if err := k.damaged(f, errors.New("it is no record of an image")); err != nil {
				return err
			}
		}
		for _, img := range list {
			k.seen.Images++
			r, err := k.Images.Load(ctx, img)
			if err != nil {
				return err
			}
			if r == nil {
				if err := k.damaged(f, errors.New("the store has not all of the image "+img.Title())); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}
