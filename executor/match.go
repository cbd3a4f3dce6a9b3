package executor

import (
	"context"
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
	parts []part
}

// A part of a reading is a list of entries, of which some metadata is replaced.
type part struct {
	list []selected
	replaced
}

// entries are all that was read, as it was hashed but for the paths, which are those in the tree.
func (r *reading) entries(yield func(snapshot.Entry) bool) {
	for _, p := range r.parts {
		for _, s := range p.list {
			if !yield(p.counted(s)) {
				return
			}
		}
	}
}

// selection returns the digest of all that v reads of its given input, the tree t: what its sources match,
// by name, and everything below.
func (x *Executor) selection(ctx context.Context, v *llb.Vertex, input int, t snapshot.Tree) (digest.Digest, error) {
	if t == nil {
		return digest.Digest{}, fmt.Errorf("input %d of %s is not one that files are read from", input, v.Meta().Label)
	}
	r := &reading{Hasher: digest.NewHasher("selection/v1")}
	var err error
	switch op := v.Op().(type) {
	case *llb.File:
		for _, a := range op.Actions {
			if c, ok := a.(*llb.Copy); ok && c.From == input && err == nil {
				err = hashSources(ctx, r, t, c)
			}
		}
	case *llb.Exec:
		err = hashMounts(ctx, r, t, op, input)
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

func hashSources(ctx context.Context, r *reading, t snapshot.Tree, c *llb.Copy) error {
	for _, src := range c.Sources {
		found, err := matches(t, src)
		if err != nil {
			return err
		}
		r.Int("matches", int64(len(found)))
		for _, m := range found {
			r.String("name", m.name)
			if err := hashSource(ctx, r, t, m.entry, c, src); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashSource writes what c takes of a match of src into r. Of a folder that is what is in it, not its metadata.
func hashSource(ctx context.Context, r *reading, t snapshot.Tree, root snapshot.Entry, c *llb.Copy, src llb.Source) error {
	mode, err := parseMode(c.Mode)
	if err != nil {
		return err
	}
	gone := replaced{mode: mode, owner: c.Owner != nil}
	if root.Type != snapshot.Dir {
		return hashEntries(ctx, r, t, root.Path, part{[]selected{{Entry: &root}}, gone})
	}
	list, err := selectBelow(ctx, t, root.Path, c, src)
	if err != nil {
		return err
	}
	snapshot.HashEntry(r.Hasher, &snapshot.Entry{Path: ".", Type: snapshot.Dir})
	return hashEntries(ctx, r, t, root.Path, part{list, gone})
}

// A replaced says which metadata a Copy gives to all that it takes: what they had counts as far as it makes a difference.
type replaced struct {
	mode  modeChange
	owner bool
}

// counted returns s without what is replaced. A folder that is only passed may give its permission bits to one that is there.
func (r replaced) counted(s selected) snapshot.Entry {
	e := *s.Entry
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

// hashTree writes root and all below it into r.
func hashTree(ctx context.Context, r *reading, t snapshot.Tree, root snapshot.Entry) error {
	var list []selected
	err := snapshot.Walk(t, root.Path, func(e snapshot.Entry) (bool, error) {
		list = append(list, selected{Entry: &e})
		return true, context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	return hashEntries(ctx, r, t, root.Path, part{list: list})
}

// hashEntries writes entries into r without what is replaced, with paths relative to root, whose own place does not
// matter. The digests of many files are computed at once.
func hashEntries(ctx context.Context, r *reading, t snapshot.Tree, root string, p part) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hashers)
	for i := range p.list {
		if at := p.list[i].Entry; at.Type == snapshot.Regular && at.Digest.IsZero() {
			e := *at
			p.list[i].Entry = &e // the other one belongs to the tree
			g.Go(func() (err error) {
				e.Digest, err = t.Digest(ctx, e)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.parts = append(r.parts, p)
	names := map[string]string{} // inode -> first name
	for _, s := range p.list {
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
	return nil
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
