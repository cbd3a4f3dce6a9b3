package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// A treeForm is a tree of a layer, by what its name in the folder of the layer says.
type treeForm struct {
	// marked is set for a tree of a user namespace with one id, see package owners.
	marked bool
	// chain is "" for a tree that depends on its layer alone. A layer may leave out directories on the way to its entries:
	// in the tree they need the metadata that they have below, since overlayfs shows that of the topmost tree. Such a
	// tree is only good for the one chain.
	chain string
	// boot is when the tree was made, see cache.Boot. It is "" for one that was read back and found whole in a later boot:
	// all of that one is on the disk.
	boot string
}

// name returns the name of the tree: "tree" or "marked", "-" and a chain, "@" and a boot.
func (t treeForm) name() string {
	name := "tree"
	if t.marked {
		name = "marked"
	}
	if t.chain != "" {
		name += "-" + t.chain
	}
	if t.boot != "" {
		name += "@" + t.boot
	}
	return name
}

func parseTreeForm(name string) (t treeForm, ok bool) {
	name, t.boot, _ = strings.Cut(name, "@")
	name, t.chain, _ = strings.Cut(name, "-")
	t.marked = name == "marked"
	return t, t.marked || name == "tree"
}

// path returns where the tree is.
func (t treeForm) path(s *Store, layer digest.Digest) string {
	return s.disk.Path(layerFile(layer, t.name()))
}

// sound reports whether all that was written of the tree is there: a power cut may take any part of a
// tree that was not forced to the disk.
func (t treeForm) sound(boot string) bool { return t.boot == "" || t.boot == boot }

// treeForms returns the trees that are kept of a layer, those that are sound first.
func (s *Store) treeForms(layer digest.Digest) []treeForm {
	f, err := os.Open(s.disk.Path(layerFile(layer, "")))
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var sound, other []treeForm
	for _, name := range names {
		switch t, ok := parseTreeForm(name); {
		case ok && t.sound(s.boot):
			sound = append(sound, t)
		case ok:
			other = append(other, t)
		}
	}
	return append(sound, other...)
}

// findTree returns the tree of the chain's topmost layer that is to be mounted in this user namespace.
func (s *Store) findTree(c *Chain) (treeForm, bool) {
	for _, t := range s.treeForms(c.Layer) {
		if t.marked == owners.OneID() && (t.chain == "" || t.chain == c.ID.Hex()) {
			return t, true
		}
	}
	return treeForm{}, false
}

// capturedTree returns a tree that the tar of a layer can be made of.
func (s *Store) capturedTree(layer digest.Digest) (found treeForm, ok bool) {
	for _, t := range s.treeForms(layer) {
		if t.chain == "" && (!ok || found.marked != owners.OneID() && t.marked == owners.OneID()) {
			found, ok = t, true
		}
	}
	return found, ok
}

// usualTree returns the tree of a layer that this process would make, if it is here, as most are: to look for one name costs
// less than to list all.
func (s *Store) usualTree(layer digest.Digest) (path string, ok bool) {
	path = treeForm{marked: owners.OneID(), boot: s.boot}.path(s, layer)
	fi, err := os.Lstat(path)
	return path, err == nil && fi.IsDir()
}

// hasTree reports whether a tree of the chain's topmost layer is here, or one that others can be made of.
func (s *Store) hasTree(c *Chain) bool {
	return slices.ContainsFunc(s.treeForms(c.Layer), func(t treeForm) bool { return t.chain == "" || t.chain == c.ID.Hex() })
}

// keepTree makes dir the tree of a layer that was captured from it. If there is a sound one, that stays, and dir is left
// where it is.
func (s *Store) keepTree(ctx context.Context, layer digest.Digest, dir string) error {
	mine := treeForm{marked: owners.OneID(), boot: s.boot}
	for _, t := range s.treeForms(layer) {
		if t.marked != mine.marked || t.chain != "" {
			continue
		}
		if t.sound(s.boot) {
			return nil
		}
		// Reading it back would cost more than taking the new one.
		unlock, err := s.disk.Lock(ctx, "layer/"+layer.Hex())
		if err != nil {
			return err
		}
		err = cache.RemoveAll(t.path(s, layer))
		unlock()
		if err != nil {
			return err
		}
	}
	return s.disk.Publish(dir, layerFile(layer, mine.name()))
}

// prove reads back a tree of another boot. One that is whole is renamed, so that nobody has to read it again; of
// one that is not, a *cache.DamagedError tells, and it is removed.
func (s *Store) prove(ctx context.Context, c *Chain) (string, error) {
	toc, err := s.TOC(ctx, c.Layer)
	if err != nil {
		return "", err
	}
	unlock, err := s.disk.Lock(ctx, "layer/"+c.Layer.Hex())
	if err != nil {
		return "", err
	}
	defer unlock()
	t, ok := s.findTree(c)
	if !ok {
		return "", &cache.DamagedError{What: "tree of layer " + c.Layer.String(), Err: errors.New("another process has removed it")}
	}
	dir := t.path(s, c.Layer)
	if t.sound(s.boot) { // another process was first
		return dir, nil
	}
	whole, err := holds(ctx, dir, toc, t.marked)
	if err != nil && ctx.Err() != nil {
		return "", err
	}
	if err != nil || !whole {
		return "", s.dropTree(c.Layer, dir, errors.New("the machine went down before all of it was on the disk"))
	}
	t.boot = ""
	return t.path(s, c.Layer), os.Rename(dir, t.path(s, c.Layer))
}

// holds reports whether a tree is what the table of contents says, with all bytes.
func holds(ctx context.Context, dir string, toc *TOC, marked bool) (bool, error) {
	w := NewWriter(io.Discard)
	w.sum.h = nopHash{} // another tool may have written another tar of the same files
	if err := capture(ctx, w, dir, captureOptions{known: toc, rehash: true, marked: marked}); err != nil {
		return false, fmt.Errorf("%s: %w", dir, err)
	}
	got, err := w.Close()
	if err != nil {
		return false, err
	}
	implied := map[string]bool{} // only in the tree
	for _, p := range toc.impliedDirs() {
		implied[p] = true
	}
	have := slices.DeleteFunc(got.resolved(), func(e Entry) bool { return implied[e.Path] })
	want := toc.resolved()
	for i := range want {
		switch {
		case i < len(have) && sameFile(want[i], have[i]):
		case want[i].Type == Char || want[i].Type == Block: // no tree of a user namespace has them
			have = slices.Insert(have, min(i, len(have)), want[i])
		default:
			return false, nil
		}
	}
	return len(have) == len(want), nil
}

// resolved returns the entries with hard links replaced by the files they name; names of one file have the
// first of them as Inode.
func (t *TOC) resolved() []Entry {
	out := slices.AppendSeq(make([]Entry, 0, t.Entries.Len()), t.Entries.All())
	first := map[string]string{} // file -> name
	for _, e := range out {
		if e.Type == Hardlink {
			first[e.Link] = ""
		}
	}
	for i := range out {
		e := &out[i]
		file := e.Path
		if e.Type == Hardlink {
			file = e.Link
		}
		name, linked := first[file]
		if !linked {
			continue
		}
		if name == "" {
			name = e.Path
			first[file] = name
		}
		if target, ok := t.get(file); ok {
			target.Path = e.Path
			*e = target
		}
		if e.Type == Regular {
			e.Inode = name
		}
	}
	return out
}

// sameFile compares all that a tree can show of an entry a of its table of contents.
func sameFile(a, b Entry) bool {
	if c := a.Xattrs[capability]; isForeign(capability, c) {
		a.Xattrs, b.Xattrs = without(a.Xattrs, capability), without(b.Xattrs, capability)
	}
	return a.Path == b.Path && a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		a.Size == b.Size && a.Mtime == b.Mtime && a.Link == b.Link && a.Major == b.Major && a.Minor == b.Minor &&
		a.Opaque == b.Opaque && a.Digest == b.Digest && a.Inode == b.Inode && maps.Equal(a.Xattrs, b.Xattrs)
}

func without(attributes map[string]string, name string) map[string]string {
	rest := maps.Clone(attributes)
	delete(rest, name)
	return rest
}

// dropTree removes a tree and tells about it.
func (s *Store) dropTree(layer digest.Digest, dir string, why error) error {
	if err := cache.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		why = err
	}
	return &cache.DamagedError{What: "tree of layer " + layer.String(), Err: fmt.Errorf("%w; it was removed", why)}
}
