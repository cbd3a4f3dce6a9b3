package executor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// hashers is how many files are hashed at once.
var hashers = runtime.NumCPU()

// file runs a File operation: it needs no sandbox and unpacks nothing.
func (x *Executor) file(ctx context.Context, v *llb.Vertex, op *llb.File, inputs []digest.Digest) (d digest.Digest, err error) {
	now := x.Now()
	err = x.apply(ctx, v, op, inputs, now, func(out *snapshot.Changes) error {
		d, err = x.Layers.Commit(ctx, inputs[0], out, x.making(v, now))
		return err
	})
	return d, err
}

// Foresee implements solver.Foreseer: what a File or Merge operation gives can be told by its inputs, as long as no archive has
// to be read for it.
func (x *Executor) Foresee(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (d digest.Digest, ok bool, err error) {
	if _, ok := v.Op().(*llb.Merge); ok {
		d, err = x.Layers.ForeseeStack(inputs[0], inputs[1])
		return d, err == nil, err
	}
	op, ok := v.Op().(*llb.File)
	if !ok || !foreseeable(op) {
		return digest.Digest{}, false, nil
	}
	err = x.apply(ctx, v, op, inputs, x.Now(), func(out *snapshot.Changes) error {
		d, ok, err = x.Layers.Foresee(inputs[0], out)
		return err
	})
	if err != nil { // it will fail when it is run, and say so then; or it needs the bytes of a file that is foreseen itself
		return digest.Digest{}, false, context.Cause(ctx)
	}
	return d, ok, nil
}

func foreseeable(op *llb.File) bool {
	for _, a := range op.Actions {
		if c, ok := a.(*llb.Copy); ok && c.Unpack {
			return false
		}
	}
	return true
}

// apply collects the changes of a File operation, and calls then with them while what they read is open.
func (x *Executor) apply(ctx context.Context, v *llb.Vertex, op *llb.File, inputs []digest.Digest, now time.Time, then func(*snapshot.Changes) error) error {
	base, err := x.Layers.View(ctx, inputs[0])
	if err != nil {
		return err
	}
	f := &filer{ctx: ctx, x: x, out: snapshot.NewChanges(base), base: base, now: now.Unix()}
	if x.Epoch != nil {
		f.now = x.Epoch.Unix()
	}
	defer f.close()
	for _, a := range op.Actions {
		switch a := a.(type) {
		case *llb.Mkdir:
			err = f.mkdir(a)
		case *llb.Mkfile:
			err = f.mkfile(a)
		case *llb.Copy:
			var t snapshot.Tree
			if t, err = x.tree(ctx, v, a.From, inputs); err == nil {
				err = f.copy(a, t)
			}
		}
		if err != nil {
			return err
		}
	}
	return then(f.out)
}

// A filer applies actions to changes.
type filer struct {
	ctx     context.Context
	x       *Executor
	base    *snapshot.View
	out     *snapshot.Changes
	now     int64 // what is new gets this time, in seconds since 1970
	closers []io.Closer
}

func (f *filer) close() {
	for _, c := range f.closers {
		c.Close()
	}
}

func (f *filer) mkdir(a *llb.Mkdir) error {
	uid, gid, err := f.owner(a.Owner)
	if err != nil {
		return err
	}
	p, err := snapshot.Resolve(f.out, a.Path, true)
	if err != nil {
		return err
	}
	return f.out.MkdirAll(p, snapshot.Entry{Mode: a.Mode, UID: uid, GID: gid, Mtime: f.timeOf(a.Time)})
}

// timeOf returns the time that something new gets, now unless it is said.
func (f *filer) timeOf(said *int64) int64 {
	if said != nil {
		return *said
	}
	return f.now
}

func (f *filer) mkfile(a *llb.Mkfile) error {
	p, err := snapshot.Resolve(f.out, a.Path, true)
	if err != nil {
		return err
	}
	e := snapshot.Entry{
		Path: p, Type: snapshot.Regular, Mode: a.Mode, Size: int64(len(a.Data)), Mtime: f.timeOf(a.Time), Digest: digest.Of(a.Data),
	}
	return f.out.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(a.Data)), nil })
}

// A copier runs one Copy.
type copier struct {
	*filer
	from snapshot.Tree
	op   *llb.Copy
	// owned says that uid and gid replace the owners of what is copied.
	owned    bool
	uid, gid int
	mode     modeChange
	names    map[string]string // inode -> the first name that was copied of it, within one source
}

func (f *filer) copy(op *llb.Copy, from snapshot.Tree) error {
	c := &copier{filer: f, from: from, op: op, owned: op.Owner != nil}
	var err error
	if c.uid, c.gid, err = f.owner(op.Owner); err != nil {
		return err
	}
	if c.mode, err = parseMode(op.Mode); err != nil {
		return err
	}
	for _, src := range op.Sources {
		found, err := matches(from, src)
		if err != nil {
			return err
		}
		for _, m := range found {
			if err := c.source(m, src); err != nil {
				return err
			}
		}
	}
	return nil
}

// newDir is what directories look like that a copy has to make.
func (c *copier) newDir() snapshot.Entry {
	e := snapshot.Entry{Type: snapshot.Dir, Mode: 0o755, UID: c.uid, GID: c.gid, Mtime: c.now}
	if c.mode.bits != nil { // changes are for what there is
		e.Mode = *c.mode.bits
	}
	return e
}

// source copies one source to the destination. A folder means its contents; a destination that ends
// in a slash or is a directory takes a file under its own name.
func (c *copier) source(m match, src llb.Source) error {
	if c.op.Unpack && m.entry.Type == snapshot.Regular {
		if done, err := c.unpack(m); err != nil || done {
			return err
		}
	}
	dest, err := snapshot.Resolve(c.out, c.op.Dest, true)
	if err != nil {
		return err
	}
	at, exists, err := c.out.Lstat(dest)
	if err != nil {
		return err
	}
	c.names = map[string]string{}
	if m.entry.Type == snapshot.Dir {
		if exists && at.Type != snapshot.Dir {
			return fmt.Errorf("cannot copy to non-directory: /%s", dest)
		}
		if err := c.out.MkdirAll(dest, c.newDir()); err != nil {
			return err
		}
		return c.below(m.entry.Path, dest, src)
	}
	if isDirPath(c.op.Dest) || exists && at.Type == snapshot.Dir {
		if err := c.out.MkdirAll(dest, c.newDir()); err != nil {
			return err
		}
		dest = join(dest, m.name)
	} else if err := c.out.MkdirAll(path.Dir(dest), c.newDir()); err != nil {
		return err
	}
	origin := snapshot.Origin(func(string) (io.ReadCloser, error) { return openAt(c.from, m.entry.Path) })
	return c.entry(m.entry, dest, &origin)
}

// isDirPath reports whether a destination can only mean a directory.
func isDirPath(p string) bool {
	return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "."
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// below copies what the source selects of the folder from to the directory dest.
func (c *copier) below(from, dest string, src llb.Source) error {
	origin := snapshot.Origin(func(p string) (io.ReadCloser, error) { return openAt(c.from, join(from, relative(dest, p))) })
	return selectBelow(c.ctx, c.from, from, c.op, src, func(s selected) error {
		to := join(dest, relative(from, s.Path))
		if s.passed {
			return c.pass(s.Entry, to)
		}
		return c.entry(s.Entry, to, &origin)
	})
}

// pass makes a directory that is only on the way to what is copied. One that is there keeps its owner, as on BuildKit.
func (c *copier) pass(e snapshot.Entry, to string) error {
	old, exists, err := c.out.Lstat(to)
	if err != nil || !exists || old.Type != snapshot.Dir {
		if err == nil {
			err = c.entry(e, to, nil)
		}
		return err
	}
	old.Mode = e.Mode
	return c.out.Put(old, nil)
}

// entry copies e, a file of origin, to the path to; what is in a directory is entries of its own.
func (c *copier) entry(e snapshot.Entry, to string, origin *snapshot.Origin) error {
	old, exists, err := c.out.Lstat(to)
	if err != nil {
		return err
	}
	if exists && (old.Type == snapshot.Dir) != (e.Type == snapshot.Dir) {
		if e.Type == snapshot.Dir {
			return fmt.Errorf("cannot copy to non-directory: /%s", to)
		}
		return fmt.Errorf("cannot replace to directory /%s with file", to)
	}
	n := c.dress(e, to)
	if e.Type == snapshot.Regular {
		if first, ok := c.names[e.Inode]; ok && e.Inode != "" {
			return c.out.Put(snapshot.Entry{Path: to, Type: snapshot.Hardlink, Link: first, Mode: n.Mode, UID: n.UID, GID: n.GID, Mtime: n.Mtime}, nil)
		}
		if e.Inode != "" {
			c.names[e.Inode] = to
		}
		if n.Digest, err = c.from.Digest(c.ctx, e); err != nil {
			return err
		}
	}
	return c.out.PutFrom(n, origin)
}

// openAt opens the file at p in t.
func openAt(t snapshot.Tree, p string) (io.ReadCloser, error) {
	e, ok, err := t.Lstat(p)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", p, snapshot.ErrChanged)
	}
	if err != nil {
		return nil, err
	}
	return t.Open(e)
}

// dress returns e as it is in the image.
func (c *copier) dress(e snapshot.Entry, to string) snapshot.Entry {
	n := e
	n.Path, n.Inode = to, ""
	if c.owned {
		n.UID, n.GID = c.uid, c.gid
	}
	if e.Type != snapshot.Symlink {
		n.Mode = c.mode.of(n.Mode, e.Type == snapshot.Dir)
	}
	return n
}
