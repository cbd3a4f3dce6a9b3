package snapshot

import (
	"archive/tar"
	"bufio"
	"context"
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

// A visitor receives the files of a tar in the order they come. It may read content, the
// bytes of a Regular file, or leave it. A file replaces an earlier one of the same path. Whiteouts, and whether
// a directory is opaque, show in the table of contents at the end: a marker may come after what it must not hide.
type visitor func(e *Entry, content io.Reader) error

// readLayer reads the tar of a layer from r to its end, unless ctx ends before, hands each file to visit (which may be nil)
// and returns the table of contents.
func readLayer(ctx context.Context, r io.Reader, visit visitor) (*TOC, error) {
	sum := &counter{w: io.Discard, h: sha256.New()}
	in := io.TeeReader(bufio.NewReaderSize(r, 256<<10), sum)
	s := newScan(ctx, visit)
	if err := s.read(tar.NewReader(in), sum); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the padding belongs to the digest
		return nil, err
	}
	t := &TOC{DiffID: digest.Digest(sum.h.Sum(nil)), Size: sum.n, Opaque: s.opaque, Entries: ListOf(s.finish()...)}
	t.Content = contentDigest(t)
	return t, nil
}

// ReadArchive returns the entries of a tar that is no layer, in the order of their paths: names that
// would mean whiteouts are names of files like others. Entry.Offset counts from the start of r.
func ReadArchive(ctx context.Context, r io.Reader) ([]Entry, error) {
	sum := &counter{w: io.Discard, h: nopHash{}}
	in := io.TeeReader(bufio.NewReaderSize(r, 256<<10), sum)
	s := newScan(ctx, nil)
	s.plain = true
	if err := s.read(tar.NewReader(in), sum); err != nil {
		return nil, err
	}
	return s.finish(), nil
}

// nopHash is for a counter whose digest nobody asks for.
type nopHash struct{ hash.Hash }

func (nopHash) Write(p []byte) (int, error) { return len(p), nil }
func (nopHash) Sum(b []byte) []byte         { return append(b, make([]byte, sha256.Size)...) }

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
// users set. Labels and ACLs belong to the host that set them, and a tar cannot name one with "=" in its name.
func keepXattr(name string) bool {
	return name == capability ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, overlayXattr) && name != owners.Xattr && !strings.Contains(name, "=")
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
