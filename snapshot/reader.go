package snapshot

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// A visitor receives the entries of a tar in the order they come. It may read content, the
// bytes of a Regular file, or leave it. An entry replaces an earlier one of the same path.
type visitor func(e *Entry, content io.Reader) error

// maxEntries bounds what a hostile tar can make us keep in memory.
const maxEntries = 10_000_000

// readLayer reads the tar of a layer from r to its end, hands each entry to visit (which may be nil)
// and returns the table of contents.
func readLayer(r io.Reader, visit visitor) (*TOC, error) {
	sum := &counter{w: io.Discard, h: sha256.New()}
	in := io.TeeReader(bufio.NewReaderSize(r, 256<<10), sum)
	tr := tar.NewReader(in)
	s := scan{byPath: map[string]int{}}
	if err := s.read(tr, sum, visit); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the padding belongs to the digest
		return nil, err
	}
	entries := s.finish()
	return &TOC{DiffID: digest.Digest(sum.h.Sum(nil)), Size: sum.n, Content: contentDigest(entries), Entries: entries}, nil
}

// ReadArchive returns the entries of a tar that is no layer, in the order of their paths: names that
// would mean whiteouts are names of files like others. Entry.Offset counts from the start of r.
func ReadArchive(r io.Reader) ([]Entry, error) {
	sum := &counter{w: io.Discard, h: nopHash{}}
	in := io.TeeReader(bufio.NewReaderSize(r, 256<<10), sum)
	s := scan{byPath: map[string]int{}, plain: true}
	if err := s.read(tar.NewReader(in), sum, nil); err != nil {
		return nil, err
	}
	return s.finish(), nil
}

// nopHash is for a counter whose digest nobody asks for.
type nopHash struct{ hash.Hash }

func (nopHash) Write(p []byte) (int, error) { return len(p), nil }

func (s *scan) read(tr *tar.Reader, sum *counter, visit visitor) error {
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
			}
		}
		if err := s.add(e, tr, visit); err != nil {
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

// A scan collects entries.
type scan struct {
	entries []Entry
	byPath  map[string]int // index into entries
	links   map[string]string
	plain   bool // no name means a whiteout
}

func (s *scan) add(e *Entry, content io.Reader, visit visitor) error {
	if len(s.entries) >= maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if err := s.resolve(e); err != nil {
		return err
	}
	if e.Path == "." {
		return nil // the root's own entry: its metadata is not part of a layer
	}
	if !s.plain && e.Name() == opaqueName {
		return s.opaque(e, visit)
	}
	if name, ok := strings.CutPrefix(e.Name(), whiteoutPrefix); ok && !s.plain {
		*e = Entry{Path: join(parentOf(e.Path), name), Type: Whiteout}
		if i, ok := s.byPath[e.Path]; ok { // re-added in the same layer, before its whiteout
			return s.hide(i, visit)
		}
	}
	if i, ok := s.byPath[e.Path]; ok && e.Type == Dir {
		e.Opaque = s.entries[i].Type == Whiteout || s.entries[i].Opaque
	}
	if e.Type == Regular {
		h := sha256.New()
		body := io.TeeReader(content, h)
		if visit != nil {
			if err := visit(e, body); err != nil {
				return err
			}
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		e.Digest = digest.Digest(h.Sum(nil))
	} else if visit != nil {
		if err := visit(e, nil); err != nil {
			return err
		}
	}
	s.put(*e)
	return nil
}

func (s *scan) put(e Entry) {
	if e.Type == Symlink {
		if s.links == nil {
			s.links = map[string]string{}
		}
		s.links[e.Path] = e.Link
	} else {
		delete(s.links, e.Path)
	}
	i, ok := s.byPath[e.Path]
	if !ok {
		s.byPath[e.Path] = len(s.entries)
		s.entries = append(s.entries, e)
		return
	}
	s.entries[i] = e
}

// opaque handles the marker that its directory hides what is below.
func (s *scan) opaque(e *Entry, visit visitor) error {
	dir := parentOf(e.Path)
	i, ok := s.byPath[dir]
	if !ok {
		s.put(Entry{Path: dir, Type: Dir, Mode: 0o755})
		i = s.byPath[dir]
	}
	return s.hide(i, visit)
}

// hide makes an entry that is a directory hide what is below it.
func (s *scan) hide(i int, visit visitor) error {
	e := &s.entries[i]
	if e.Type != Dir || e.Opaque {
		return nil
	}
	e.Opaque = true
	if visit == nil {
		return nil
	}
	return visit(e, nil)
}

// resolve replaces the parents of e that are symbolic links of this layer by what they point to, as
// every other tool does that unpacks the layer into a folder.
func (s *scan) resolve(e *Entry) error {
	if len(s.links) == 0 || e.Path == "." {
		return nil
	}
	dir, err := followLinks(parentOf(e.Path), func(p string) (string, bool) { t, ok := s.links[p]; return t, ok })
	if err != nil {
		return err
	}
	e.Path = join(dir, e.Name())
	return nil
}

// finish orders the entries and drops those whose parent was replaced by something that is no directory.
func (s *scan) finish() []Entry {
	sortEntries(s.entries)
	out := s.entries[:0]
	gone := ""
	for _, e := range s.entries {
		if gone != "" && strings.HasPrefix(e.Path, gone) {
			continue
		}
		gone = ""
		if e.Type != Dir {
			gone = e.Path + "/"
		}
		out = append(out, e)
	}
	return out
}

// maxLinks is how many symbolic links one path may lead through, as in the kernel.
const maxLinks = 40

// errLoop is what the kernel says of a path with more than maxLinks links.
var errLoop = errors.New("too many levels of symbolic links")

// followLinks returns the path that p leads to when every symbolic link in it, the last
// element included, is followed inside the root. readlink returns the target of the link at a path.
func followLinks(p string, readlink func(p string) (string, bool)) (string, error) {
	done, rest := ".", strings.Split(Clean(p), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = parentOf(done)
			continue
		}
		next := join(done, name)
		target, ok := readlink(next)
		if !ok {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", p, errLoop)
		}
		if strings.HasPrefix(target, "/") {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// entryOf translates a header. It returns nil for headers that are no entries.
func entryOf(h *tar.Header) (*Entry, error) {
	p, err := archivePath(h.Name)
	if err != nil {
		return nil, err
	}
	e := &Entry{
		Path: p, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid, Mtime: h.ModTime.Unix(),
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '7':
		e.Type, e.Size = Regular, h.Size
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		e.Type, e.Link, e.Mode = Symlink, h.Linkname, 0o777
	case tar.TypeLink:
		e.Type = Hardlink
		if e.Link, err = archivePath(h.Linkname); err != nil {
			return nil, err
		}
	case tar.TypeChar:
		e.Type, e.Major, e.Minor = Char, uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeBlock:
		e.Type, e.Major, e.Minor = Block, uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		e.Type = Fifo
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, fmt.Errorf("%s: archive entry of unknown type %q", h.Name, h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok && keepXattr(name) {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e, nil
}

// keepXattr reports whether images keep the extended attribute: file capabilities and what
// users set. Labels and ACLs belong to the host that set them.
func keepXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, overlayXattr) && name != owners.Xattr
}

const overlayXattr = "user.overlay."

// archivePath returns the Path of a name in an archive. A leading slash means the root, as
// for tar(1); a name that climbs out of the root is an error.
func archivePath(name string) (string, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("archive entry %q leaves the root", name)
	}
	if strings.Contains(p, "\x00") {
		return "", fmt.Errorf("archive entry %q has a NUL byte in its name", name)
	}
	return p, nil
}
