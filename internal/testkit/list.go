package testkit

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A node is a file of any type. Names that share a node are hard links of each other.
type node struct {
	mode     uint32 // permission bits with setuid, setgid and sticky
	uid, gid int
	kind     byte   // d, f, l, p, c, b, s; h for a link to something that is not there
	detail   string // what a line ends with
	text     string // the same for people: the content of a small text file in place of its digest
	modTime  int64  // seconds since 1970; only archives and images tell it
	xattrs   string // what a line for people has of extended attributes; only archives and images tell them
}

// A tree maps clean relative paths to nodes. The root itself is not in it.
type tree map[string]*node

// ListDir returns a listing of what is below dir, sorted by path, one line each:
//
//	0755 0:0 d bin
//	0755 0:0 f bin/busybox 1982256 sha256:b5d6ad1f8a2c
//	0777 0:0 l bin/sh -> /bin/busybox
//	0644 0:0 h hard -> earlier/path
//	0644 0:0 p pipe
//	0666 0:0 c dev/null 1,3
//
// Of the names of one file, the first is the file and the others are links to it. Times are left out.
func ListDir(t testing.TB, dir string) string {
	t.Helper()
	files, inodes := tree{}, map[[2]uint64]*node{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		inode := [2]uint64{uint64(st.Dev), st.Ino}
		if inodes[inode] == nil {
			inodes[inode], err = stat(p, &st)
		}
		files[name] = inodes[inode]
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files.String()
}

func stat(p string, st *unix.Stat_t) (*node, error) {
	n := &node{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.kind = 'd'
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		n.kind, n.detail = 'l', " -> "+target
		return n, err
	case unix.S_IFIFO:
		n.kind = 'p'
	case unix.S_IFSOCK:
		n.kind = 's'
	case unix.S_IFCHR:
		n.kind, n.detail = 'c', device(unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		n.kind, n.detail = 'b', device(unix.Major(st.Rdev), unix.Minor(st.Rdev))
	default:
		f, err := os.Open(p)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		n.kind = 'f'
		n.detail, n.text, err = content(f)
		return n, err
	}
	return n, nil
}

// ListTar returns the listing of a tar, in the form of ListDir. Whiteouts are files like others.
func ListTar(t testing.TB, r io.Reader) string {
	t.Helper()
	files := tree{}
	if err := each(r, files.add); err != nil {
		t.Fatal(err)
	}
	return files.String()
}

// ListImage returns the listing of the layers of img laid over each other, in the form of ListDir.
func ListImage(t testing.TB, img v1.Image) string {
	t.Helper()
	return flattened(t, img).String()
}

// ShowImage is ListImage for people. Small text files show what is in them, files show their extended
// attributes, and everything older than the tests shows its time, since that cannot be when it was made:
//
//	0644 0:0 f answer "42\n" user.note="x"
//	0644 0:0 f old "text\n" @1000000000
func ShowImage(t testing.TB, img v1.Image) string {
	t.Helper()
	return flattened(t, img).list(true)
}

func flattened(t testing.TB, img v1.Image) tree {
	t.Helper()
	files, err := flatten(img)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func flatten(img v1.Image) (tree, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	files := tree{}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			return nil, err
		}
		err = files.apply(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// apply lays a layer over the tree. Its whiteouts hide what lower layers have, never what the layer itself
// has, wherever they stand in it.
func (files tree) apply(layer io.Reader) error {
	const whiteout, opaque = ".wh.", ".wh..wh..opq"
	lower := maps.Clone(files)
	own := map[string]bool{} // the paths of this layer and their parents
	hide := func(name string, children bool) {
		for p := range lower {
			if (p == name && !children || below(p, name)) && !own[p] {
				delete(files, p)
			}
		}
	}
	return each(layer, func(h *tar.Header, r io.Reader) error {
		name := clean(h.Name)
		dir, base := path.Split(name)
		dir = clean(dir)
		switch {
		case base == opaque:
			hide(dir, true)
			return nil
		case strings.HasPrefix(base, whiteout):
			hide(path.Join(dir, base[len(whiteout):]), false)
			return nil
		}
		if old := files[name]; old != nil && old.kind == 'd' && h.Typeflag != tar.TypeDir {
			hide(name, false)
		}
		for p := name; p != "."; p = path.Dir(p) {
			own[p] = true
		}
		return files.add(h, r)
	})
}

// below reports whether p is within the folder dir.
func below(p, dir string) bool { return dir == "." || strings.HasPrefix(p, dir+"/") }

// add puts an entry of an archive into the tree.
func (files tree) add(h *tar.Header, r io.Reader) error {
	name := clean(h.Name)
	if name == "." {
		return nil
	}
	n := &node{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, modTime: h.ModTime.Unix(), xattrs: xattrs(h)}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind = 'd'
	case tar.TypeSymlink:
		n.kind, n.detail = 'l', " -> "+h.Linkname
	case tar.TypeLink:
		if target := files[clean(h.Linkname)]; target != nil {
			n = target
		} else {
			n.kind, n.detail = 'h', " -> "+clean(h.Linkname)
		}
	case tar.TypeFifo:
		n.kind = 'p'
	case tar.TypeChar:
		n.kind, n.detail = 'c', device(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeBlock:
		n.kind, n.detail = 'b', device(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeReg:
		var err error
		n.kind = 'f'
		if n.detail, n.text, err = content(r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	default:
		return fmt.Errorf("%s: unknown type %q", h.Name, h.Typeflag)
	}
	files[name] = n
	return nil
}

// xattrs returns the extended attributes of an entry, each as " name=value" with the value quoted.
func xattrs(h *tar.Header) string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			fmt.Fprintf(&out, " %s=%q", name, h.PAXRecords[k])
		}
	}
	return out.String()
}

// each calls f for the entries of an archive.
func each(archive io.Reader, f func(*tar.Header, io.Reader) error) error {
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(h, r); err != nil {
			return err
		}
	}
}

// clean returns the name of an archive's entry as a path relative to the root, "." for the root. One that
// leaves the root keeps its dots: a listing must show it.
func clean(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// shownText is how long a file can be whose text is shown.
const shownText = 240

// content returns the end of the line of a file that holds what r reads, and the end for people.
func content(r io.Reader) (detail, text string, err error) {
	h := sha256.New()
	var head bytes.Buffer
	n, err := io.Copy(h, io.TeeReader(io.LimitReader(r, shownText+1), &head))
	if err != nil {
		return "", "", err
	}
	rest, err := io.Copy(h, r)
	detail = fmt.Sprintf(" %d sha256:%x", n+rest, h.Sum(nil)[:6])
	if text = detail; n <= shownText && utf8.Valid(head.Bytes()) && bytes.IndexByte(head.Bytes(), 0) < 0 {
		text = fmt.Sprintf(" %q", head.String())
	}
	return detail, text, err
}

func device(major, minor uint32) string { return fmt.Sprintf(" %d,%d", major, minor) }

func (files tree) String() string { return files.list(false) }

// Times from 1970 itself are those of the base image, and from shownUntil on those of the tests.
const shownUntil = 1400000000

// list returns the lines of the tree, for people or not.
func (files tree) list(people bool) string {
	var out strings.Builder
	first := map[*node]string{}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		n := files[p]
		kind, detail := n.kind, n.detail
		if people && n.text != "" {
			detail = n.text
		}
		if people {
			detail += n.xattrs
		}
		if people && n.modTime > 0 && n.modTime < shownUntil {
			detail += fmt.Sprintf(" @%d", n.modTime)
		}
		if earlier, linked := first[n]; linked {
			kind, detail = 'h', " -> "+earlier
		} else {
			first[n] = p
		}
		fmt.Fprintf(&out, "%04o %d:%d %c %s%s\n", n.mode, n.uid, n.gid, kind, p, detail)
	}
	return out.String()
}
