package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A cacheMount is a cache that a step mounts, at one or more places.
type cacheMount struct {
	name    string // in the store; its folders are numbered, the later ones are for private use
	sharing llb.Sharing
	access  *llb.Access
	seed    snapshot.Tree // what a new folder holds, or nil
	from    snapshot.Entry
}

// caches mounts the caches of the process. Each is taken once, though the step may name it more than
// once, and in the order of their names, so that steps do not wait for each other in a circle.
func (c *container) caches(ctx context.Context) error {
	byName := map[string]*cacheMount{}
	names := map[*llb.Mount]string{}
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Type != llb.MountCache {
			continue
		}
		cm, err := c.x.cacheMount(ctx, c.Vertex, m, c.Inputs)
		if err != nil {
			return err
		}
		names[m] = cm.name
		if byName[cm.name] == nil {
			byName[cm.name] = cm
		}
	}
	dirs := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		dir, unlock, err := c.x.takeCache(ctx, byName[name], c.Vertex.Meta().NoCache)
		if err != nil {
			return err
		}
		c.held = append(c.held, unlock)
		dirs[name] = dir
	}
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Type != llb.MountCache {
			continue
		}
		if err := c.mountCache(m, dirs[names[m]]); err != nil {
			return err
		}
	}
	return nil
}

// cacheMount returns the cache that m means. Its name covers what a new folder would look like, so that
// steps that want it otherwise do not find it.
func (x *Executor) cacheMount(ctx context.Context, v *llb.Vertex, m *llb.Mount, results []digest.Digest) (*cacheMount, error) {
	cm := &cacheMount{sharing: m.Sharing, access: m.Access}
	h := digest.NewHasher("mount.cache/v1")
	h.String("id", m.ID)
	h.Bool("access", m.Access != nil)
	if a := m.Access; a != nil {
		h.Int("mode", int64(a.Mode))
		h.Int("uid", int64(a.UID))
		h.Int("gid", int64(a.GID))
	}
	h.Bool("seed", m.From > 0)
	if m.From > 0 {
		var err error
		if cm.seed, err = x.tree(ctx, v, m.From, results); err != nil {
			return nil, err
		}
		if cm.from, err = sourceOf(cm.seed, m); err != nil {
			return nil, err
		}
		seed := &reading{Hasher: h, ctx: ctx, tree: cm.seed}
		if err := seed.all(cm.from); err != nil {
			return nil, err
		}
	}
	cm.name = "mounts/" + h.Sum().Hex()
	return cm, nil
}

// takeCache returns a folder of a cache and the function that gives it back. The build's first use of a
// folder empties it when renew is set.
func (x *Executor) takeCache(ctx context.Context, cm *cacheMount, renew bool) (dir string, unlock func(), err error) {
	place := func(n int) string { return fmt.Sprintf("%s/%d", cm.name, n) }
	name := place(0)
	switch cm.sharing {
	case llb.SharingPrivate:
		for n := 0; unlock == nil && err == nil; n++ {
			name = place(n)
			unlock, err = x.Disk.TryLock(name)
		}
	case llb.SharingLocked:
		unlock, err = x.Disk.Lock(ctx, name)
	default:
		if renew {
			if err := x.renewShared(ctx, name); err != nil {
				return "", nil, err
			}
			renew = false
		}
		unlock, err = x.Disk.LockShared(ctx, name)
	}
	if err != nil {
		return "", nil, err
	}
	if renew && x.renewed.first(name) {
		err = x.removeFolder(name)
	}
	if err == nil {
		err = x.makeCache(ctx, cm, name)
	}
	if err == nil {
		err = x.Disk.Touch(cm.name)
	}
	if err != nil {
		unlock()
		return "", nil, err
	}
	free := unlock
	return x.Disk.Path(name), func() {
		_ = x.Disk.Touch(cm.name) // its size may be another one now
		free()
	}, nil
}

// renewShared empties a folder that others may be using: it waits until they are done. Other steps of this build
// wait for that, or they would hold it meanwhile.
func (x *Executor) renewShared(ctx context.Context, name string) error {
	gate := x.renewed.gate(name)
	gate.Lock()
	defer gate.Unlock()
	if x.renewed.is(name) {
		return nil
	}
	unlock, err := x.Disk.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if !x.renewed.first(name) {
		return nil
	}
	return x.removeFolder(name)
}

// removeFolder removes a folder of the store at once for all others.
func (x *Executor) removeFolder(name string) error {
	tmp, err := x.Disk.NewTempDir()
	if err != nil {
		return err
	}
	defer tmp.Remove()
	err = os.Rename(x.Disk.Path(name), tmp.Join("old"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// makeCache makes a folder of a cache unless it is there.
func (x *Executor) makeCache(ctx context.Context, cm *cacheMount, name string) error {
	if _, err := os.Lstat(x.Disk.Path(name)); err == nil {
		return nil
	}
	tmp, err := x.Disk.NewTempDir()
	if err != nil {
		return err
	}
	defer tmp.Remove()
	const at = "new"
	if cm.seed != nil {
		err = snapshot.WriteTree(ctx, cm.seed, cm.from.Path, tmp.Path, at)
	} else {
		err = snapshot.WriteEntries(tmp.Path, []snapshot.Entry{{Path: at, Type: snapshot.Dir, Mode: 0o755, Mtime: x.Now().Unix()}})
	}
	if a := cm.access; a != nil && err == nil {
		err = errors.Join(owners.Chown(tmp.Join(at), a.UID, a.GID), unix.Chmod(tmp.Join(at), a.Mode))
	}
	if err != nil {
		return err
	}
	return x.Disk.Publish(tmp.Join(at), name)
}

// mountCache mounts the folder dir of a cache, or what its source names in it.
func (c *container) mountCache(m *llb.Mount, dir string) error {
	below := ""
	if m.From == 0 { // or else the source was what it was filled from
		below = strings.TrimPrefix(m.Source, "/")
	}
	kind, err := kindIn(dir, below)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%q: not found", m.Source)
	}
	if err != nil {
		return fmt.Errorf("cache on %s: %w", m.Target, err)
	}
	return c.mount(sandbox.Mount{Type: sandbox.MountBind, Source: dir, Path: below, Target: m.Target, ReadOnly: m.ReadOnly}, kind)
}

// kindIn returns what is at a path below the folder dir, or what dir itself is when there is none. A link that
// leads out of dir is an error.
func kindIn(dir, below string) (snapshot.Type, error) {
	fi, err := os.Lstat(dir)
	if err == nil && below != "" {
		var root *os.Root
		if root, err = os.OpenRoot(dir); err != nil {
			return 0, err
		}
		defer root.Close()
		fi, err = root.Stat(filepath.FromSlash(below))
	}
	if err != nil {
		return 0, err
	}
	if fi.IsDir() {
		return snapshot.Dir, nil
	}
	return snapshot.Regular, nil
}

// renewed remembers which folders of caches this process has emptied.
type renewed struct {
	mu    sync.Mutex
	done  map[string]bool
	gates map[string]*sync.Mutex // held while somebody waits to empty a folder
}

func (r *renewed) is(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[name]
}

// first reports whether the caller is the first with that name; he has to empty the folder, which he holds.
func (r *renewed) first(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done[name] {
		return false
	}
	if r.done == nil {
		r.done = map[string]bool{}
	}
	r.done[name] = true
	return true
}

func (r *renewed) gate(name string) *sync.Mutex {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gates == nil {
		r.gates = map[string]*sync.Mutex{}
	}
	if r.gates[name] == nil {
		r.gates[name] = new(sync.Mutex)
	}
	return r.gates[name]
}
