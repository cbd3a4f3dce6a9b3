package history

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A File is one name of a selection, with what of it counts in the key of the step that selects it.
type File struct {
	Path   string // in the input
	Type   snapshot.Type
	Mode   uint32
	Digest digest.Digest
	Owner  string // unless it is 0:0
	// Rest is what else counts: the target of a link, a device, extended attributes.
	Rest string
}

// newFile returns e as it is kept.
func newFile(e *snapshot.Entry) File {
	f := File{Path: e.Path, Type: e.Type, Mode: e.Mode, Digest: e.Digest, Rest: e.Link}
	if e.UID != 0 || e.GID != 0 {
		f.Owner = fmt.Sprintf("%d:%d", e.UID, e.GID)
	}
	if e.Type == snapshot.Char || e.Type == snapshot.Block {
		f.Rest = fmt.Sprintf("%d,%d", e.Major, e.Minor)
	}
	if len(e.Xattrs) > 0 {
		h := digest.NewHasher("history.xattrs")
		h.Map("xattrs", e.Xattrs)
		f.Rest += " xattrs " + h.Sum().Short()
	}
	return f
}

// AddFiles keeps what is behind the digest of a selection, unless that is known. Entries that end in an error are not all: nothing is kept of
// them, and the error is for who reads them to tell.
func (l *Log) AddFiles(d digest.Digest, entries iter.Seq2[snapshot.Entry, error]) error {
	if _, ok := l.listed.Load(d); ok {
		return nil
	}
	if name := fileOf("files", d); !l.has(name) {
		var unread error
		files := func(yield func(File, error) bool) {
			entries(func(e snapshot.Entry, err error) bool { unread = err; return yield(newFile(&e), err) })
		}
		err := l.disk.WriteStream(name, func(w io.Writer) error { return writeFiles(w, files) })
		switch {
		case unread != nil:
			return nil
		case err != nil:
			return err
		}
	}
	l.listed.Store(d, true)
	return nil
}

// files returns what is behind the digest of a selection; one that is not known, or not any more, ends in an error.
func (l *Log) files(d digest.Digest) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		f, err := os.Open(l.disk.Path(fileOf("files", d)))
		if err != nil {
			yield(File{}, err)
			return
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			yield(File{}, err)
			return
		}
		readFiles(f, fi.Size())(yield)
	}
}

// apart returns what of two lists is not the same in both, by path. Of many files few change: the lists are read side by side, and only what has
// not met its like is kept.
func apart(a, b iter.Seq2[File, error]) (x, y map[string]File, err error) {
	nextA, stopA := iter.Pull2(a)
	defer stopA()
	nextB, stopB := iter.Pull2(b)
	defer stopB()
	x, y = map[string]File{}, map[string]File{}
	for {
		fa, errA, okA := nextA()
		fb, errB, okB := nextB()
		if err := errors.Join(errA, errB); err != nil || !okA && !okB {
			return x, y, err
		}
		if okA && okB && fa == fb {
			continue
		}
		if okA {
			meet(fa, x, y)
		}
		if okB {
			meet(fb, y, x)
		}
	}
}

// meet keeps f with its own, unless the others have it too: then they lose it.
func meet(f File, own, others map[string]File) {
	if others[f.Path] == f {
		delete(others, f.Path)
		return
	}
	own[f.Path] = f
}

// named is how many changed files are named before the others are counted.
const named = 3

// Differences says what of a became another in b, as causes do: "etc/date changed, +tmp/x". It is "" when nothing did.
func Differences(a, b iter.Seq[snapshot.Entry]) string {
	text, _ := changes(filesOf(a), filesOf(b), false) // which cannot be damaged
	return text
}

func filesOf(entries iter.Seq[snapshot.Entry]) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		entries(func(e snapshot.Entry) bool { return yield(newFile(&e), nil) })
	}
}

// filesCause says in which way the files of one selection are not those of another. When the operations are not the same,
// one may replace what the other takes from the files: modes and owners that it does not look at are no difference.
func (l *Log) filesCause(old, now digest.Digest, otherOp bool) string {
	text, err := changes(l.files(old), l.files(now), otherOp)
	if err != nil {
		return "the files changed"
	}
	if text == "" && !otherOp {
		return "the files have the same bytes in another arrangement" // hard links, or the names of sources
	}
	return text
}

// changes says what of a list became another in the other one.
func changes(list1, list2 iter.Seq2[File, error], otherOp bool) (string, error) {
	before, after, err := apart(list1, list2)
	if err != nil {
		return "", err
	}
	var changed, dressed, added, gone []string // dressed: the same bytes in other clothes
	for p, f := range after {
		if o, ok := before[p]; !ok {
			added = append(added, countable(f, p))
		} else if text := o.difference(f); o.Type != f.Type || o.Digest != f.Digest || o.Rest != f.Rest {
			changed = append(changed, p+text)
		} else if unseen := f.Mode == 0 || o.Mode == 0 || f.Owner != o.Owner && (f.Owner == "" || o.Owner == ""); text != "" && !(otherOp && unseen) {
			dressed = append(dressed, p+text)
		}
	}
	for p, f := range before {
		if _, ok := after[p]; !ok {
			gone = append(gone, countable(f, p))
		}
	}
	slices.Sort(changed)
	slices.Sort(dressed)
	changed = append(changed, dressed...)
	parts := changed
	if n := len(changed) - named; n > 0 {
		parts = append(changed[:named:named], fmt.Sprintf("%d more changed", n))
	}
	parts = append(parts, count("+", added)...)
	parts = append(parts, count("-", gone)...)
	return strings.Join(parts, ", "), nil
}

// countable returns the path of a file; folders end in a slash.
func countable(f File, p string) string {
	if f.Type == snapshot.Dir {
		return p + "/"
	}
	return p
}

// count names what has come or gone: one file, or how many. Folders count only where there are no files.
func count(sign string, paths []string) []string {
	isFolder := func(p string) bool { return strings.HasSuffix(p, "/") }
	files := slices.DeleteFunc(slices.Clone(paths), isFolder)
	word := "files"
	if len(files) == 0 {
		files, word = paths, "folders"
	}
	switch len(files) {
	case 0:
		return nil
	case 1:
		return []string{sign + files[0]}
	}
	return []string{fmt.Sprintf("%s%d %s", sign, len(files), word)}
}

// kinds are the types of files for people.
var kinds = map[snapshot.Type]string{
	snapshot.Regular: "a file", snapshot.Dir: "a folder", snapshot.Symlink: "a symbolic link", snapshot.Hardlink: "a hard link",
	snapshot.Char: "a device", snapshot.Block: "a device", snapshot.Fifo: "a fifo",
}

// difference says what of f became another in now, beginning with a space; "" is nothing.
func (f File) difference(now File) string {
	switch {
	case f.Type != now.Type:
		return " is " + kinds[now.Type] + " now"
	case f.Digest != now.Digest || f.Rest != now.Rest:
		return " changed"
	case f.Mode != now.Mode:
		return fmt.Sprintf(" %04o -> %04o", f.Mode, now.Mode)
	case f.Owner != now.Owner:
		return fmt.Sprintf(" %s -> %s", orRoot(f.Owner), orRoot(now.Owner))
	}
	return ""
}

func orRoot(owner string) string {
	if owner == "" {
		return "0:0"
	}
	return owner
}
