package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/safefs"
)

// A Flat is the root file system of a chain as plain files in one folder, where overlayfs cannot be had: a copy
// that one step may change, with what is needed to tell afterwards what it has changed.
//
// The copy shares no file with the store. A hard link would be faster, and the first program that opens a
// file to append to it would change the layer the file came from.
type Flat struct {
	dir    string
	parent digest.Digest
	times  map[string]int64           // of the directories, as the layers have them
	hidden map[string]bool            // what Place put there: no part of a layer
	made   map[string]bool            // those of it that are directories the chain does not have
	before map[string]map[string]mark // directory -> name -> what it was before the step
	newest int64                      // the latest change before the step, in nanoseconds since 1970
}

// A mark tells whether a file was changed: nobody can set ctime, and a file that takes the place of
// another has another inode or another time of birth.
type mark struct {
	kind          uint16 // S_IFMT
	ino           uint64
	born, changed int64 // in nanoseconds since 1970
}

func (m mark) isDir() bool { return m.kind == unix.S_IFDIR }

// same reports whether both are of one file, changed or not.
func (m mark) same(o mark) bool { return m.kind == o.kind && m.ino == o.ino && m.born == o.born }

// Flatten makes the root file system of a chain in dir, a new folder. Call Mark before the step runs.
func (s *Store) Flatten(ctx context.Context, id digest.Digest, dir string) (*Flat, error) {
	chains, err := s.Chains(id)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return nil, err
	}
	f := &Flat{dir: dir, parent: id, times: map[string]int64{}, hidden: map[string]bool{}, made: map[string]bool{}}
	for _, c := range chains {
		if err := f.add(ctx, s, c); err != nil {
			return nil, fmt.Errorf("layer %s: %w", c.Layer, err)
		}
	}
	return f, nil
}

// add puts a layer on top of what is there.
func (f *Flat) add(ctx context.Context, s *Store, c *Chain) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	toc, err := s.TOC(ctx, c.Layer)
	if err != nil {
		return err
	}
	x, err := newExtractor(f.dir)
	if err != nil {
		return err
	}
	defer x.Close()
	// What the layer hides goes first.
	if toc.Opaque {
		if err := empty(x.root); err != nil {
			return err
		}
	}
	for e := range toc.Entries.All() {
		if e.Type == Whiteout || e.Opaque {
			if err := hide(x.root, e.Path); err != nil {
				return err
			}
		}
	}
	r, from, err := s.openStream(ctx, c.Layer)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := readLayer(ctx, r, func(e *Entry, content io.Reader) error {
		if e.Type == Dir {
			f.times[e.Path] = e.Mtime
		}
		return x.entry(e, content)
	})
	if err != nil {
		return s.diagnose(ctx, c.Layer, err)
	}
	for e := range got.Entries.All() { // the tar may have no entry of a directory that hides what is below
		if e.Opaque {
			f.times[e.Path] = e.Mtime
			if err := x.entry(&e, nil); err != nil {
				return err
			}
		}
	}
	return s.settle(ctx, c.Layer, from, got)
}

// empty removes all that is in a folder.
func empty(root *safefs.Root) error {
	f, err := root.OpenFile(".")
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	return err
}

// hide removes p, if it is there.
func hide(root *safefs.Root, p string) error {
	err := root.RemoveAll(p)
	if isGone(err) {
		return nil
	}
	return err
}

// Place puts a regular file at p, as a mount would: what was there does not show, and the file is no part of the
// layer. Directories on the way are made if missing; links are followed within the root.
func (f *Flat) Place(p, content string) error {
	p, _, err := f.find(p)
	if err != nil {
		return err
	}
	f.hidden[p] = true
	return f.extract(&Entry{Path: p, Type: Regular, Mode: 0o644}, content)
}

// PlaceDir makes p an empty directory, as a mount would. Of all that is done in it nothing is part of the layer; a
// directory that was not there is, since a mount needs one. p must not be a symbolic link.
func (f *Flat) PlaceDir(p string) error {
	p = Clean(p)
	root, err := safefs.Open(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(p); errors.Is(err, fs.ErrNotExist) {
		f.made[p] = true
	} else if err := root.RemoveAll(p); err != nil {
		return err
	}
	f.hidden[p] = true
	return f.extract(&Entry{Path: p, Type: Dir, Mode: 0o755}, "")
}

// Point makes a file or directory at p for a mount to cover, if there is none.
func (f *Flat) Point(p string, dir bool) error {
	p, there, err := f.find(p)
	if err != nil || there {
		return err
	}
	e := &Entry{Path: p, Type: Regular, Mode: 0o644}
	if dir {
		e.Type, e.Mode = Dir, 0o755
	}
	return f.extract(e, "")
}

// find returns where p leads to within the root, and whether something is there.
func (f *Flat) find(p string) (string, bool, error) {
	root, err := safefs.Open(f.dir)
	if err != nil {
		return "", false, err
	}
	defer root.Close()
	p, err = followLinks(p, func(p string) (string, bool) {
		to := make([]byte, unix.PathMax)
		var n int
		err := root.At("readlink", p, func(dir int, name string) (err error) { n, err = unix.Readlinkat(dir, name, to); return err })
		return string(to[:max(n, 0)]), err == nil
	})
	if err != nil {
		return "", false, err
	}
	_, err = root.Stat(p)
	return p, err == nil, nil
}

func (f *Flat) extract(e *Entry, content string) error {
	x, err := newExtractor(f.dir)
	if err != nil {
		return err
	}
	defer x.Close()
	return x.entry(e, strings.NewReader(content))
}

// Mark remembers what the folder holds. What differs from that afterwards is a change.
func (f *Flat) Mark() error {
	f.before = map[string]map[string]mark{}
	if err := f.resetTimes(); err != nil {
		return err
	}
	err := f.walk(func(names map[string]mark, p string) {
		f.before[p] = names
		for _, m := range names {
			f.newest = max(f.newest, m.changed)
		}
	})
	if err != nil {
		return err
	}
	// File systems take the time from a clock that ticks every 1 to 10 ms: a change within the tick would not show.
	const tick = 20 * time.Millisecond
	time.Sleep(time.Until(time.Unix(0, f.newest).Add(tick)))
	return nil
}

// resetTimes gives directories the times that the files made in them have changed.
func (f *Flat) resetTimes() error {
	root, err := safefs.Open(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	dirs := []string{}
	if err := f.walk(func(_ map[string]mark, p string) { dirs = append(dirs, p) }); err != nil {
		return err
	}
	for _, p := range dirs {
		if p == "." {
			continue
		}
		err := root.At("set time of", p, func(dir int, name string) error { return safefs.SetTime(dir, name, f.times[p]) })
		if err != nil {
			return err
		}
	}
	return nil
}

// walk calls visit for every directory, parents first, with what is in it.
func (f *Flat) walk(visit func(names map[string]mark, p string)) error {
	root, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return walkMarks(root, ".", visit)
}

// walkMarks closes d. It goes from descriptor to descriptor: no length of path is too long.
func walkMarks(d *os.File, p string, visit func(names map[string]mark, p string)) error {
	defer d.Close()
	list, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	names := make(map[string]mark, len(list))
	for _, name := range list {
		if names[name], err = markOf(int(d.Fd()), name); err != nil {
			return &os.PathError{Op: "statx", Path: join(p, name), Err: err}
		}
	}
	visit(names, p)
	for _, name := range list {
		if !names[name].isDir() {
			continue
		}
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: join(p, name), Err: err}
		}
		if err := walkMarks(os.NewFile(uintptr(fd), name), join(p, name), visit); err != nil {
			return err
		}
	}
	return nil
}

func markOf(dir int, name string) (mark, error) {
	var st unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if err := unix.Statx(dir, name, flags, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_CTIME|unix.STATX_BTIME, &st); err != nil {
		return mark{}, err
	}
	nano := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	return mark{st.Mode & unix.S_IFMT, st.Ino, nano(st.Btime), nano(st.Ctime)}, nil
}

// A pick says what a layer holds of a path.
type pick byte

const (
	pickEntry  pick = iota + 1
	pickOpaque      // a directory that hides what is below
	pickGone        // a whiteout
)

// picks returns what the step has changed, as an overlay's upper directory would hold it.
func (f *Flat) picks() (map[string]pick, error) {
	out := map[string]pick{}
	fresh := map[string]bool{} // directories that were not there before
	below := map[string]bool{} // directories in hidden ones
	err := f.walk(func(names map[string]mark, dir string) {
		before := f.before[dir]
		if f.hidden[dir] || below[dir] {
			for name := range names {
				below[join(dir, name)] = true
			}
			return
		}
		for name, now := range names {
			p := join(dir, name)
			old, known := before[name]
			isNew := fresh[dir] || !known || !old.same(now)
			switch {
			case f.made[p]:
				out[p] = pickEntry
			case f.hidden[p]:
			case isNew && now.isDir():
				fresh[p] = true
				out[p] = pickEntry
				if known && !fresh[dir] {
					out[p] = pickOpaque
				}
			case isNew || old.changed != now.changed:
				out[p] = pickEntry
			}
		}
		for name := range before {
			p := join(dir, name)
			if _, there := names[name]; !there && !fresh[dir] && !f.hidden[p] {
				out[p] = pickGone
			}
		}
	})
	for p := range out { // a layer names the directories that its entries are in
		for dir := parentOf(p); dir != "." && out[dir] == 0; dir = parentOf(dir) {
			out[dir] = pickEntry
		}
	}
	return out, err
}

// CommitFlat makes a layer of what was changed in f since Mark, and returns the chain with it on top. The
// folder stays; who made it removes it.
func (s *Store) CommitFlat(ctx context.Context, f *Flat, m Making) (digest.Digest, error) {
	picked, err := f.picks()
	if err != nil {
		return digest.Digest{}, err
	}
	below, err := s.View(ctx, f.parent)
	if err != nil {
		return digest.Digest{}, err
	}
	return s.commitNew(f.parent, m, func(w *Writer) error {
		return capture(ctx, w, f.dir, captureOptions{picked: picked, below: below, marked: owners.OneID(), links: m.Links})
	})
}

// pickedNames returns those of the names in the directory p that are picked, in order, with those that are gone.
func pickedNames(picked map[string]pick, p string, names []string, gone map[string][]string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return picked[join(p, name)] == 0 })
	return append(names, gone[p]...)
}
