package executor

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A match is something in a tree that a source of a Copy names.
type match struct {
	name  string         // the last element of the path it was named by
	entry snapshot.Entry // what it is, symbolic links followed
}

// A NotFoundError says that a source of a Copy does not exist. Its text is the one users know.
type NotFoundError struct{ Path string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("%q: not found", e.Path) }

// matches returns what src names in t, ordered by path.
func matches(t snapshot.Tree, src llb.Source) ([]match, error) {
	if !src.Wildcard {
		m, ok, err := lookup(t, src.Path)
		if err == nil && !ok {
			err = &NotFoundError{path.Join(src.Path, src.Include)}
		}
		return []match{m}, err
	}
	paths, err := glob(t, src.Path)
	if err != nil {
		return nil, err
	}
	var out []match
	for _, p := range paths {
		m, ok, err := lookup(t, p)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, &NotFoundError{"/" + p} // a dangling link
		}
		out = append(out, m)
	}
	return out, nil
}

func lookup(t snapshot.Tree, p string) (match, bool, error) {
	q, err := snapshot.Resolve(t, p, true)
	if err != nil {
		return match{}, false, err
	}
	e, ok, err := t.Lstat(q)
	return match{path.Base(snapshot.Clean(p)), e}, ok, err
}

// glob returns the paths in t that pattern matches, as path/filepath.Match does for each element. Folders
// on the way may be symbolic links.
func glob(t snapshot.Tree, pattern string) ([]string, error) {
	if _, err := filepath.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	dirs := []string{"."}
	elems := strings.Split(snapshot.Clean(pattern), "/")
	for _, elem := range elems {
		var next []string
		for _, dir := range dirs {
			names, err := globIn(t, dir, elem)
			if err != nil {
				return nil, err
			}
			next = append(next, names...)
		}
		dirs = next
	}
	return dirs, nil
}

// globIn returns the paths of what elem matches in the folder that dir leads to.
func globIn(t snapshot.Tree, dir, elem string) ([]string, error) {
	real, err := snapshot.Resolve(t, dir, true)
	if err != nil {
		return nil, err
	}
	list, err := t.ReadDir(real)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list {
		if ok, _ := filepath.Match(elem, e.Name()); ok {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// A reading is what a step reads of one input, on its way into a hasher.
type reading struct {
	*digest.Hasher
	ctx   context.Context
	tree  snapshot.Tree
	parts []part
}

// A part of a reading is a walk over entries, of which some metadata is replaced. It can be taken again: the entries are not kept.
type part struct {
	walk func(yield func(selected) error) error
	replaced
}

// errEnough ends a walk.
var errEnough = errors.New("nobody asks for more")

// entries are all that was read, as it was hashed but for the paths, which are those in the tree. An error, such as that the build was
// canceled, is the last: without it they are all.
func (r *reading) entries(yield func(snapshot.Entry, error) bool) {
	for _, p := range r.parts {
		err := p.walk(func(s selected) (err error) {
			if s.Type == snapshot.Regular && s.Digest.IsZero() {
				s.Digest, err = r.tree.Digest(r.ctx, s.Entry)
			}
			if err == nil && !yield(p.counted(s), nil) {
				err = errEnough
			}
			return err
		})
		if err != nil {
			if !errors.Is(err, errEnough) {
				yield(snapshot.Entry{}, err)
			}
			return
		}
	}
}

// selection returns the digest of all that v reads of its given input, the tree t: what its sources match,
// by name, and everything below.
func (x *Executor) selection(ctx context.Context, v *llb.Vertex, input int, t snapshot.Tree) (digest.Digest, error) {
	if t == nil {
		return digest.Digest{}, fmt.Errorf("input %d of %s is not one that files are read from", input, v.Meta().Label)
	}
	r := &reading{Hasher: digest.NewHasher("selection/v1"), ctx: ctx, tree: t}
	var err error
	switch op := v.Op().(type) {
	case *llb.File:
		for _, a := range op.Actions {
			if c, ok := a.(*llb.Copy); ok && c.From == input && err == nil {
				err = r.sources(c)
			}
		}
	case *llb.Exec:
		err = r.mounts(op, input)
	}
	if err != nil {
		return digest.Digest{}, err
	}
	d := r.Sum()
	if x.Selected != nil {
		x.Selected(v, input, d, r.entries)
	}
	return d, nil
}

// sources reads what c takes.
func (r *reading) sources(c *llb.Copy) error {
	for _, src := range c.Sources {
		found, err := matches(r.tree, src)
		if err != nil {
			return err
		}
		r.Int("matches", int64(len(found)))
		for _, m := range found {
			r.String("name", m.name)
			if err := r.source(m.entry, c, src); err != nil {
				return err
			}
		}
	}
	return nil
}

// source reads what c takes of a match of src. Of a folder that is what is in it, not its metadata.
func (r *reading) source(root snapshot.Entry, c *llb.Copy, src llb.Source) error {
	mode, err := parseMode(c.Mode)
	if err != nil {
		return err
	}
	p := part{replaced: replaced{mode: mode, owner: c.Owner != nil}}
	if root.Type != snapshot.Dir {
		p.walk = func(yield func(selected) error) error { return yield(selected{Entry: root}) }
		return r.read(root.Path, p)
	}
	p.walk = func(yield func(selected) error) error { return selectBelow(r.ctx, r.tree, root.Path, c, src, yield) }
	snapshot.HashEntry(r.Hasher, &snapshot.Entry{Path: ".", Type: snapshot.Dir})
	return r.read(root.Path, p)
}

// A replaced says which metadata a Copy gives to all that it takes: what they had counts as far as it makes a difference.
type replaced struct {
	mode  modeChange
	owner bool
}

// counted returns s without what is replaced. A folder that is only passed may give its permission bits to one that is there.
func (r replaced) counted(s selected) snapshot.Entry {
	e := s.Entry
	switch {
	case e.Type == snapshot.Symlink, s.passed:
	case r.mode.bits != nil:
		e.Mode = 0
	default:
		e.Mode = r.mode.of(e.Mode, e.Type == snapshot.Dir)
	}
	if r.owner {
		e.UID, e.GID = 0, 0
	}
	return e
}

// all reads root and all below it.
func (r *reading) all(root snapshot.Entry) error {
	return r.read(root.Path, part{walk: func(yield func(selected) error) error {
		return snapshot.Walk(r.tree, root.Path, func(e snapshot.Entry) (bool, error) {
			if err := context.Cause(r.ctx); err != nil {
				return false, err
			}
			return true, yield(selected{Entry: e})
		})
	}})
}

// batch is how many entries are read before they are hashed.
const batch = 1024

// read hashes the entries of p without what is replaced, with paths relative to root, whose own place does not matter.
func (r *reading) read(root string, p part) error {
	r.parts = append(r.parts, p)
	names := map[string]string{} // inode -> first name
	var list []selected
	hash := func() error {
		if err := r.digests(list); err != nil {
			return err
		}
		for _, s := range list {
			e := p.counted(s)
			e.Path = relative(root, e.Path)
			snapshot.HashEntry(r.Hasher, &e)
			if e.Inode == "" {
				continue
			}
			if first, ok := names[e.Inode]; ok {
				r.String("hard link to", first)
			} else {
				names[e.Inode] = e.Path
			}
		}
		list = list[:0]
		return nil
	}
	err := p.walk(func(s selected) error {
		if list = append(list, s); len(list) < batch {
			return nil
		}
		return hash()
	})
	if err != nil {
		return err
	}
	return hash()
}

// digests gives entries the digests that they lack. Those of many files are computed at once.
func (r *reading) digests(list []selected) error {
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(hashers)
	for i := range list {
		if e := &list[i].Entry; e.Type == snapshot.Regular && e.Digest.IsZero() {
			g.Go(func() (err error) {
				e.Digest, err = r.tree.Digest(ctx, *e)
				return err
			})
		}
	}
	return g.Wait()
}

// relative returns p as seen from dir, which it is or is below.
func relative(dir, p string) string {
	if p == dir {
		return "."
	}
	if dir == "." {
		return p
	}
	return p[len(dir)+1:]
}
