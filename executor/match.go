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
			err = &NotFoundError{src.Path}
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

// selection returns the digest of all that v reads of its given input, the tree t: what its sources match,
// by name, and everything below.
func (x *Executor) selection(ctx context.Context, v *llb.Vertex, input int, t snapshot.Tree) (digest.Digest, error) {
	if t == nil {
		return digest.Digest{}, fmt.Errorf("input %d of %s is not one that files are read from", input, v.Meta().Label)
	}
	h := digest.NewHasher("selection/v1")
	var err error
	switch op := v.Op().(type) {
	case *llb.File:
		for _, a := range op.Actions {
			if c, ok := a.(*llb.Copy); ok && c.From == input && err == nil {
				err = hashSources(ctx, h, t, c)
			}
		}
	case *llb.Exec:
		err = hashMounts(ctx, h, t, op, input)
	}
	return h.Sum(), err
}

func hashSources(ctx context.Context, h *digest.Hasher, t snapshot.Tree, c *llb.Copy) error {
	for _, src := range c.Sources {
		found, err := matches(t, src)
		if err != nil {
			return err
		}
		h.Int("matches", int64(len(found)))
		for _, m := range found {
			h.String("name", m.name)
			if err := hashTree(ctx, h, t, m.entry, func(e *snapshot.Entry) { forget(e, c) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget clears what a Copy does not take of e, whose path is relative to the source: the metadata of the source itself
// when it is a folder, and permission bits and owners that the Copy replaces.
func forget(e *snapshot.Entry, c *llb.Copy) {
	if e.Path == "." && e.Type == snapshot.Dir {
		*e = snapshot.Entry{Path: ".", Type: snapshot.Dir}
	}
	if c.Mode != nil && e.Type != snapshot.Symlink {
		e.Mode = 0
	}
	if c.Owner != nil {
		e.UID, e.GID = 0, 0
	}
}

// hashTree writes root and all below it into h, as forget, which may be nil, leaves it. Paths are
// relative to root, whose own place does not matter. The digests of many files are computed at once.
func hashTree(ctx context.Context, h *digest.Hasher, t snapshot.Tree, root snapshot.Entry, forget func(*snapshot.Entry)) error {
	var list []snapshot.Entry
	err := snapshot.Walk(t, root.Path, func(e snapshot.Entry) (bool, error) {
		list = append(list, e)
		return true, context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hashers)
	for i := range list {
		if e := &list[i]; e.Type == snapshot.Regular && e.Digest.IsZero() {
			g.Go(func() (err error) {
				e.Digest, err = t.Digest(ctx, *e)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	names := map[string]string{} // inode -> first name
	for _, e := range list {
		inode := e.Inode
		e.Path = relative(root.Path, e.Path)
		if forget != nil {
			forget(&e)
		}
		snapshot.HashEntry(h, &e)
		if inode == "" {
			continue
		}
		if first, ok := names[inode]; ok {
			h.String("hard link to", first)
		} else {
			names[inode] = e.Path
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
