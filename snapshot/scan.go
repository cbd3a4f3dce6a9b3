package snapshot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
)

// Bounds of what a hostile tar can make us keep in memory, and do.
const (
	maxEntries  = 10_000_000
	maxNames    = 512 << 20 // bytes of names, links and extended attributes together
	maxReplaced = 1000      // directories that make room for something else
	maxSparse   = 1 << 40   // bytes of sparse files, which a tar need not hold
)

// A scan collects the entries of a tar. What it makes of names that come more than once is what tar(1) leaves in
// a folder: a later file takes the place of an earlier one, and a hard link keeps the file it was made of.
type scan struct {
	ctx     context.Context
	visit   visitor
	plain   bool // no name means a whiteout
	opaque  bool // the root hides what is below
	entries []Entry
	byPath  map[string]int      // index into entries
	implied map[string]bool     // directories that the tar has no entry of
	links   map[string]string   // symbolic links
	names   map[string][]string // file -> hard links to it that were made, some of which may be gone

	size     int   // of names, links and extended attributes
	sparse   int64 // bytes of sparse files
	replaced int
}

func newScan(ctx context.Context, visit visitor) *scan {
	return &scan{ctx: ctx, visit: visit, byPath: map[string]int{}, implied: map[string]bool{}, links: map[string]string{}, names: map[string][]string{}}
}

func (s *scan) read(tr *tar.Reader, sum *counter) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := entryOf(h)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if e.Type == Regular {
			e.Offset = sum.n
			if isSparse(h) {
				e.Offset = -1
				if s.sparse += min(e.Size, maxSparse+1); s.sparse > maxSparse {
					return fmt.Errorf("%s: more than %d bytes of sparse files", e.Path, int64(maxSparse))
				}
			}
		}
		if err := s.add(e, tr); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (s *scan) add(e *Entry, content io.Reader) error {
	if err := s.bound(e); err != nil {
		return err
	}
	if err := s.resolve(e); err != nil {
		return err
	}
	if mark, ok := strings.CutPrefix(e.Name(), whiteoutPrefix); ok && !s.plain {
		return s.mark(parentOf(e.Path), mark)
	}
	if e.Path == "." {
		return nil // the root's own entry: its metadata is not part of a layer
	}
	if err := s.enter(e.Path); err != nil {
		return err
	}
	if e.Type == Hardlink && e.Link == e.Path {
		return nil // tar(1) writes such a link for a file that it was told to take twice
	}
	if err := s.hash(e, content); err != nil {
		return err
	}
	return s.put(*e)
}

// bound counts e against what is read of one tar.
func (s *scan) bound(e *Entry) error {
	s.size += len(e.Path) + len(e.Link)
	for k, v := range e.Xattrs {
		s.size += len(k) + len(v)
	}
	if len(s.entries) >= maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if s.size > maxNames {
		return fmt.Errorf("more than %d bytes of names and attributes", maxNames)
	}
	return nil
}

// resolve replaces the parents of e, and of the file it links to, that are symbolic links of this layer by what they
// point to, as every other tool does that unpacks the layer into a folder. The link to a hard link becomes one to its file.
func (s *scan) resolve(e *Entry) (err error) {
	if e.Path, err = s.follow(e.Path); err != nil || e.Type != Hardlink {
		return err
	}
	if e.Link, err = s.follow(e.Link); err != nil {
		return err
	}
	if i, ok := s.byPath[e.Link]; ok && s.entries[i].Type == Hardlink {
		e.Link = s.entries[i].Link
	}
	return nil
}

func (s *scan) follow(p string) (string, error) {
	if len(s.links) == 0 || p == "." {
		return p, nil
	}
	dir, err := followLinks(parentOf(p), func(p string) (string, bool) { t, ok := s.links[p]; return t, ok })
	return join(dir, path.Base(p)), err
}

// mark notes what a marker in dir says: its name is ".wh." and the name that is gone, or one of the
// special ones. What the layer itself has of that name stays, wherever in the tar it comes.
func (s *scan) mark(dir, name string) error {
	switch {
	case whiteoutPrefix+name == opaqueName && dir == ".":
		s.opaque = true
		return nil
	case whiteoutPrefix+name == opaqueName:
		if err := s.enter(join(dir, opaqueName)); err != nil {
			return err
		}
		i, ok := s.byPath[dir]
		if !ok {
			return s.put(Entry{Path: dir, Type: Dir, Mode: 0o755, Opaque: true})
		}
		s.entries[i].Opaque = true
		return nil
	case strings.HasPrefix(name, whiteoutPrefix):
		return nil // what AUFS keeps for itself
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("a whiteout of %q", name)
	}
	p := join(dir, name)
	if err := s.enter(p); err != nil {
		return err
	}
	i, ok := s.byPath[p]
	switch {
	case ok:
		s.entries[i].Opaque = s.entries[i].Opaque || s.entries[i].Type == Dir
		return nil
	case s.implied[p]:
		return s.put(Entry{Path: p, Type: Dir, Mode: 0o755, Opaque: true})
	}
	return s.put(Entry{Path: p, Type: Whiteout})
}

// enter makes sure that p can be in the layer: what it is in must be a directory. A whiteout becomes one that hides
// what is below.
func (s *scan) enter(p string) error {
	for dir := parentOf(p); dir != "." && !s.implied[dir]; dir = parentOf(dir) {
		i, ok := s.byPath[dir]
		if !ok {
			s.implied[dir] = true
			continue
		}
		e := &s.entries[i]
		if e.Type == Whiteout {
			*e = Entry{Path: dir, Type: Dir, Mode: 0o755, Opaque: true}
		}
		if e.Type != Dir {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	return nil
}

// hash hands e to the visitor and takes the digest of what it holds.
func (s *scan) hash(e *Entry, content io.Reader) error {
	if e.Type != Regular {
		if s.visit == nil {
			return nil
		}
		return s.visit(e, nil)
	}
	h := sha256.New()
	body := io.TeeReader(stoppable{s.ctx, content}, h) // the holes of a sparse file are not read from anywhere
	if s.visit != nil {
		if err := s.visit(e, body); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	e.Digest = digest.Digest(h.Sum(nil))
	return nil
}

// put places e, in place of what is at its path.
func (s *scan) put(e Entry) error {
	i, ok := s.byPath[e.Path]
	if !ok {
		i = len(s.entries)
		s.entries = append(s.entries, Entry{})
	} else if old := s.entries[i]; old.Type == Dir && e.Type == Dir {
		e.Opaque = old.Opaque
	} else {
		s.remove(i)
		e.Opaque = e.Type == Dir && old.Type == Whiteout
		if old.Type == Dir {
			s.implied[e.Path] = true // as far as what was in it is concerned
		}
	}
	if s.implied[e.Path] && e.Type != Dir {
		if err := s.clear(e.Path); err != nil {
			return err
		}
	}
	delete(s.implied, e.Path)
	s.entries[i] = e
	s.byPath[e.Path] = i
	switch e.Type {
	case Symlink:
		s.links[e.Path] = e.Link
	case Hardlink:
		s.names[e.Link] = append(s.names[e.Link], e.Path)
		if to, ok := s.links[e.Link]; ok {
			s.links[e.Path] = to
		}
	}
	return nil
}

// clear removes all that is in a directory.
func (s *scan) clear(dir string) error {
	if s.replaced++; s.replaced > maxReplaced {
		return fmt.Errorf("more than %d directories are replaced", maxReplaced)
	}
	for i := range s.entries {
		if strings.HasPrefix(s.entries[i].Path, dir+"/") {
			s.remove(i)
		}
	}
	maps.DeleteFunc(s.implied, func(p string, _ bool) bool { return strings.HasPrefix(p, dir+"/") })
	return nil
}

// gone is the type of an entry that was removed.
const gone Type = 0

// remove takes entry i away. Hard links to it stay: the first one becomes the file.
func (s *scan) remove(i int) {
	e := s.entries[i]
	s.entries[i] = Entry{}
	delete(s.byPath, e.Path)
	delete(s.links, e.Path)
	names := slices.DeleteFunc(s.names[e.Path], func(name string) bool {
		j, ok := s.byPath[name]
		return !ok || s.entries[j].Type != Hardlink || s.entries[j].Link != e.Path
	})
	delete(s.names, e.Path)
	if len(names) == 0 {
		return
	}
	file := e
	file.Path = names[0]
	s.entries[s.byPath[file.Path]] = file
	for _, name := range names[1:] {
		s.entries[s.byPath[name]].Link = file.Path
		s.names[file.Path] = append(s.names[file.Path], name)
	}
}

// finish returns the entries in order. Whiteouts within what is opaque go: they hide nothing, and overlayfs would show them.
func (s *scan) finish() []Entry {
	sortEntries(s.entries)
	opaque := "" // the directory that was opaque last, with a slash
	return slices.DeleteFunc(s.entries, func(e Entry) bool {
		inside := s.opaque || opaque != "" && strings.HasPrefix(e.Path, opaque)
		if e.Opaque && !inside {
			opaque = e.Path + "/"
		}
		return e.Type == gone || e.Type == Whiteout && inside
	})
}
