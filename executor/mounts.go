package executor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// mounts prepares the mounts of the process.
func (c *container) mounts(ctx context.Context) error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		var err error
		switch m.Type {
		case llb.MountBind:
			err = c.bind(ctx, m)
		case llb.MountTmpfs:
			err = c.mount(sandbox.Mount{Type: sandbox.MountTmpfs, Target: m.Target, Size: m.Size, ReadOnly: m.ReadOnly}, snapshot.Dir)
		case llb.MountSecret:
			err = c.secret(m)
		case llb.MountSSH:
			err = c.agent(m)
		}
		if err != nil {
			return err
		}
	}
	return c.caches(ctx) // last, since others wait for who holds one
}

// bind shows a part of another input. It is mounted as an overlay whose upper directory is thrown away.
func (c *container) bind(ctx context.Context, m *llb.Mount) error {
	if c.x.Root != sandbox.RootOverlay {
		return c.copied(ctx, m)
	}
	lower, entry, err := c.x.shown(ctx, c.Vertex, m, c.Inputs)
	if err != nil {
		return err
	}
	c.folders++
	upper, work, empty := fmt.Sprintf("upper-%d", c.folders), fmt.Sprintf("work-%d", c.folders), fmt.Sprintf("empty-%d", c.folders)
	if err := c.mkdir(upper, work, empty); err != nil {
		return err
	}
	overlay := &sandbox.Root{Lower: append(lower, c.tmp.Join(empty)), Upper: c.tmp.Join(upper), Work: c.tmp.Join(work)}
	below := entry.Path
	if below == "." {
		below = ""
	}
	return c.mount(sandbox.Mount{
		Type: sandbox.MountOverlay, Overlay: overlay, Path: below, Target: m.Target, ReadOnly: m.ReadOnly,
	}, entry.Type)
}

// shown returns the trees that hold what m shows, and its entry in them.
func (x *Executor) shown(ctx context.Context, v *llb.Vertex, m *llb.Mount, results []digest.Digest) ([]string, snapshot.Entry, error) {
	t, err := x.tree(ctx, v, m.From, results)
	if err != nil {
		return nil, snapshot.Entry{}, err
	}
	found, err := sourceOf(t, m)
	if err != nil {
		return nil, found, err
	}
	if local, ok := v.Inputs()[m.From].Op().(*llb.Local); ok {
		return x.folders.get(ctx, x, local.Name, found)
	}
	trees, err := x.Layers.Trees(ctx, results[m.From])
	return trees, found, err
}

// sourceOf returns what the source of m is in t.
func sourceOf(t snapshot.Tree, m *llb.Mount) (snapshot.Entry, error) {
	found, ok, err := lookup(t, m.Source)
	if err == nil && !ok {
		err = &NotFoundError{m.Source}
	}
	return found.entry, err
}

// showsAll reports whether mounts of op show all of an input.
func showsAll(op *llb.Exec, input int) bool {
	for _, m := range op.Mounts {
		if m.From == input && m.Source == "/" {
			return true
		}
	}
	return false
}

// mounts reads what the mounts of op show of an input.
func (r *reading) mounts(op *llb.Exec, input int) error {
	for i := range op.Mounts {
		m := &op.Mounts[i]
		if m.From != input {
			continue
		}
		found, err := sourceOf(r.tree, m)
		if err != nil {
			return err
		}
		if err := r.all(found); err != nil {
			return err
		}
	}
	return nil
}

// folders are copies of what bind mounts show of local folders: only what the ignore patterns let through,
// owned by 0:0, and as it was when it was hashed. Each is made once per process.
type folders struct {
	mu   sync.Mutex
	tmp  *cache.TempDir
	made map[string]*folder
}

type folder struct {
	once sync.Once
	dir  string
	err  error
}

// get returns the folder with the copy of e, an entry of a local folder, and its entry there.
func (f *folders) get(ctx context.Context, x *Executor, local string, e snapshot.Entry) ([]string, snapshot.Entry, error) {
	const name = "shown"
	made, err := f.find(x, local, e.Path)
	if err != nil {
		return nil, e, err
	}
	made.once.Do(func() {
		if made.err = os.Mkdir(made.dir, 0o755); made.err == nil {
			made.err = snapshot.WriteTree(ctx, x.Locals[local], e.Path, made.dir, name)
		}
	})
	e.Path = name
	return []string{made.dir}, e, made.err
}

func (f *folders) find(x *Executor, local, at string) (*folder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tmp == nil {
		var err error
		if f.tmp, err = x.Disk.NewTempDir(); err != nil {
			return nil, err
		}
		f.made = map[string]*folder{}
	}
	key := digest.Of([]byte(local + "\x00" + at)).Hex()
	if f.made[key] == nil {
		f.made[key] = &folder{dir: f.tmp.Join(key)}
	}
	return f.made[key], nil
}

func (f *folders) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tmp == nil {
		return nil
	}
	defer func() { f.tmp = nil }()
	return f.tmp.Remove()
}

// secret provides a secret as a file in memory, as a variable, or both.
func (c *container) secret(m *llb.Mount) error {
	var value []byte
	var ok bool
	var err error
	if c.x.Secrets != nil {
		value, ok, err = c.x.Secrets(m.ID)
	}
	switch {
	case err != nil:
		return fmt.Errorf("secret %s: %w", m.ID, err)
	case !ok && m.Required:
		return fmt.Errorf("secret %s: not found", m.ID)
	}
	if m.Env != "" {
		if bytes.IndexByte(value, 0) >= 0 {
			return fmt.Errorf("secret %s: a variable cannot hold a zero byte", m.ID)
		}
		c.spec.Env = setVariable(c.spec.Env, m.Env, string(value)) // one that is missing is empty, as on BuildKit
	}
	if !ok || m.Target == "" {
		return nil
	}
	return c.mount(sandbox.Mount{
		Type: sandbox.MountFile, Target: m.Target, ReadOnly: true,
		Content: value, Mode: m.Access.Mode, UID: m.Access.UID, GID: m.Access.GID,
	}, snapshot.Regular)
}

// setVariable returns env with a variable set.
func setVariable(env []string, name, value string) []string {
	var out []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, name+"=") {
			out = append(out, kv)
		}
	}
	return append(out, name+"="+value)
}
