// Package executor owns the meaning of each operation: what its cache key
// covers, and how to run it. It does not schedule and looks nothing up.
package executor

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// An Executor runs operations over the layers of one store. It implements solver.Executor.
type Executor struct {
	Layers *snapshot.Store
	Disk   *cache.Store
	// Locals holds the folders that llb.Local may name. The folders see through their own patterns.
	Locals map[string]snapshot.Tree
	// Remote pins and fetches what llb.HTTP and llb.Git name.
	Remote Remote
	// Log gives the writers for the output of a step.
	Log func(v *llb.Vertex) (stdout, stderr io.Writer)
	// Warn takes what the person who builds should know.
	Warn func(text string)
	// Secrets returns the value of a secret, and whether there is one of that ID.
	Secrets func(id string) ([]byte, bool, error)
	// Agents serve connections to SSH agents, by ID. A function returns when its connection ends.
	Agents map[string]func(net.Conn)
	// Devices are those that steps may name.
	Devices *cdi.Registry
	// Root is how the roots of processes are made.
	Root sandbox.RootKind
	// OwnNamespace says that this process is in a user namespace that was made for it, where it may register emulators.
	OwnNamespace bool
	// Limits and ShmSize are for every process. They are part of no key: what a step makes does not
	// depend on how much it may use.
	Limits  sandbox.Limits
	ShmSize int64
	// Usage, when not nil, gets what the process of a step has used.
	Usage func(v *llb.Vertex, u sandbox.Usage)
	// Selected, when not nil, is told what a step reads of an input: the digest that counts in its key, and what is behind it, with
	// paths in the input and without what the step replaces; an error ends it before all is told. The entries are only good until it returns.
	Selected func(v *llb.Vertex, input int, d digest.Digest, entries iter.Seq2[snapshot.Entry, error])
	// Now tells the time that new layers and directories get.
	Now func() time.Time
	// Packing, when not nil, says which layers are compressed while they are made.
	Packing *Packing
	// Targets are the steps that the build is for. While a step runs, the sandbox of a process that follows is prepared.
	Targets []*llb.Vertex
	// Epoch, when not nil, is the time that directories get which a COPY has to make. Like all times it is in no key.
	Epoch *time.Time

	networks
	following
	leaving
	folders folders // what bind mounts show of the Locals
	renewed renewed // the caches that this build has emptied
}

// A Remote knows the sources that lie elsewhere.
type Remote interface {
	// Pin returns what names the content of a source as it is now. Within a build it does not change. Nothing is
	// downloaded if there is another way to know.
	Pin(ctx context.Context, op llb.Op) (digest.Digest, error)
	// Fetch returns the chain that holds what Pin has named.
	Fetch(ctx context.Context, op llb.Op) (digest.Digest, error)
}

// EndSteps lets go of what is kept from one process for the next. The kernel takes a while for it, so it is for
// as soon as none follows; one that follows nevertheless takes a little longer.
func (x *Executor) EndSteps() { x.runner.Close() }

// Close removes what steps of this process have shared. Nothing is left of their processes when it returns.
func (x *Executor) Close() error {
	x.EndSteps()
	x.waitGone()
	return x.folders.remove()
}

// Definition implements solver.Executor. What a step selects from a local folder is part of its definition,
// by content: a folder has no other identity that holds on the next machine. So it is with what lies elsewhere.
func (x *Executor) Definition(ctx context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error) {
	if v.Remote() {
		return x.pinned(ctx, v)
	}
	h := digest.NewHasher("key.definition/v1")
	h.Digest("op", llb.OpDigest(v.Op()))
	for i, in := range v.Inputs() {
		local, ok := in.Op().(*llb.Local)
		if !ok {
			h.Digest("input", digest.Digest(inputs[i]))
			continue
		}
		d, err := x.selection(ctx, v, i, x.Locals[local.Name])
		if err != nil {
			return cache.Key{}, err
		}
		h.Digest("selection", d)
	}
	return cache.Key(h.Sum()), nil
}

// pinned returns the key of a source that lies elsewhere: where it lies is not part of it.
func (x *Executor) pinned(ctx context.Context, v *llb.Vertex) (cache.Key, error) {
	pin, err := x.Remote.Pin(ctx, v.Op())
	if err != nil {
		return cache.Key{}, err
	}
	h := digest.NewHasher("key.remote/v1")
	h.Digest("pin", pin)
	return cache.Key(h.Sum()), nil
}

// Content implements solver.Executor.
func (x *Executor) Content(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error) {
	if v.Remote() {
		return x.pinned(ctx, v)
	}
	h := digest.NewHasher("key.content/v1")
	h.Digest("op", llb.OpDigest(v.Op()))
	for i := range v.Inputs() {
		if i == 0 {
			d, err := x.Layers.Content(inputs[0])
			if err != nil {
				return cache.Key{}, err
			}
			h.Digest("root", d)
			continue
		}
		d, err := x.content(ctx, v, i, inputs)
		if err != nil {
			return cache.Key{}, err
		}
		h.Digest("selection", d)
	}
	return cache.Key(h.Sum()), nil
}

// content returns the digest of what v reads of a further input.
func (x *Executor) content(ctx context.Context, v *llb.Vertex, input int, results []digest.Digest) (digest.Digest, error) {
	_, local := v.Inputs()[input].Op().(*llb.Local)
	op, ok := v.Op().(*llb.Exec)
	if _, merge := v.Op().(*llb.Merge); merge || ok && !local && showsAll(op, input) {
		return x.Layers.Content(results[input]) // nothing has to be downloaded to know it
	}
	t, err := x.tree(ctx, v, input, results)
	if err != nil {
		return digest.Digest{}, err
	}
	return x.selection(ctx, v, input, t)
}

// tree returns an input of v as files.
func (x *Executor) tree(ctx context.Context, v *llb.Vertex, input int, results []digest.Digest) (snapshot.Tree, error) {
	if local, ok := v.Inputs()[input].Op().(*llb.Local); ok {
		t, ok := x.Locals[local.Name]
		if !ok {
			return nil, fmt.Errorf("there is no folder called %q in this build", local.Name)
		}
		return t, nil
	}
	return x.Layers.View(ctx, results[input])
}

// Execute implements solver.Executor.
func (x *Executor) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	began := time.Now()
	d, err := x.execute(ctx, v, inputs)
	switch v.Op().(type) {
	case *llb.File, *llb.Exec, *llb.HTTP, *llb.Git: // what makes a layer
		if err == nil && !d.IsZero() {
			err = x.Layers.Describe(d, snapshot.Made{By: v.Meta().Label, Took: time.Since(began)})
		}
	}
	return d, err
}

func (x *Executor) execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	switch op := v.Op().(type) {
	case *llb.Image:
		return x.Layers.AppendImage(op.Layers)
	case *llb.Local:
		return digest.Digest{}, nil // read by the steps that select from it
	case *llb.HTTP, *llb.Git:
		return x.Remote.Fetch(ctx, op)
	case *llb.File:
		x.prepareFollower(v)
		return x.file(ctx, v, op, inputs)
	case *llb.Exec:
		return x.exec(ctx, v, op, inputs)
	case *llb.Merge:
		return x.Layers.Stack(inputs[0], inputs[1])
	}
	panic(fmt.Sprintf("executor: operation %T", v.Op()))
}

// Memory is a cache index that takes a result for a miss when its layers are gone. It implements solver.Memory.
type Memory struct {
	*cache.Store
	Layers *snapshot.Look
}

// Lookup implements solver.Memory.
func (m Memory) Lookup(ctx context.Context, key cache.Key) (digest.Digest, bool, error) {
	d, ok, err := m.Store.Lookup(ctx, key)
	if err != nil || !ok {
		return d, false, err
	}
	ok, err = m.Layers.Usable(d)
	return d, ok, err
}
