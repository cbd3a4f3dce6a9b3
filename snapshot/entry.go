// Package snapshot owns file trees: layers in their several forms, chains of
// layers, and the view of a chain as one root file system.
//
// A layer is what one step changed. It has up to three forms, each made at most
// once, when it is first needed: a tar (its digest is the diff ID), compressed blobs
// for export, and a tree that overlayfs can mount. A table of contents (TOC) lists
// its entries, so that most questions need none of the forms. The package does not
// know who asks or why. Trees and tars are hostile: no path leads out of them.
package snapshot

import (
	"context"
	"io"
	"path"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Type is the type of an Entry.
type Type byte

// The types of entries. They are part of the TOC format and of content digests.
const (
	Regular  Type = 'f'
	Dir      Type = 'd'
	Symlink  Type = 'l'
	Hardlink Type = 'h' // another name for the regular file at Link, in the same layer
	Char     Type = 'c'
	Block    Type = 'b'
	Fifo     Type = 'p'
	Whiteout Type = 'w' // the name is gone; it was in a layer below
)

// An Entry is one name of a file tree.
type Entry struct {
	// Path is relative to the root, slash-separated and clean, without a leading slash.
	// The root itself is ".".
	Path string
	Type Type
	// Mode holds the permission bits with set-user-ID (04000), set-group-ID (02000) and sticky (01000).
	Mode     uint32
	UID, GID int
	Size     int64 // of a regular file, in bytes
	Mtime    int64 // whole seconds since 1970, as tars carry
	// Link is the target of a symbolic link, or the path of the entry that a Hardlink is another name for.
	Link         string
	Major, Minor uint32 // of a device
	// Xattrs holds the extended attributes that images keep.
	Xattrs map[string]string
	// Opaque is set for a directory that hides what lower layers have at its path.
	Opaque bool
	// Digest is the digest of a regular file's bytes.
	Digest digest.Digest
	// Offset is where a regular file's bytes start in the layer's tar.
	Offset int64

	// from is the chain whose topmost layer an entry of a View comes from.
	from *Chain

	// Inode, when not "", is equal for entries that are names of one file. It is set by
	// Trees for files with several names, and is in no TOC.
	Inode string
}

// IsDir reports whether e is a directory.
func (e *Entry) IsDir() bool { return e.Type == Dir }

// Name returns the last element of the path.
func (e *Entry) Name() string { return path.Base(e.Path) }

// A Tree is a file tree to read from: a View, or a folder of the host.
// Paths are those of Entry. No method follows symbolic links.
type Tree interface {
	// Lstat returns the entry at p, and whether there is one.
	Lstat(p string) (Entry, bool, error)
	// ReadDir returns the entries in the directory p, ordered by name.
	ReadDir(p string) ([]Entry, error)
	// Open opens the content of a regular file that Lstat or ReadDir returned.
	Open(e Entry) (io.ReadCloser, error)
	// Digest returns the digest of the content of such a file. It ends with ctx.
	Digest(ctx context.Context, e Entry) (digest.Digest, error)
}

// comparePaths orders paths so that a directory is followed at once by all that is in it:
// the slash sorts before every other byte.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// Clean returns p as the Path of an Entry: relative to the root, with ".." clamped there.
func Clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

func parentOf(p string) string { return path.Dir(p) }

// join returns the path of name in the directory dir.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}
