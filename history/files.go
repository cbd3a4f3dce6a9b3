package history

import (
	"fmt"
	"iter"
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

// AddFiles keeps what is behind the digest of a selection, unless that is known.
func (l *Log) AddFiles(d digest.Digest, entries iter.Seq[snapshot.Entry]) error {
	if _, ok := l.listed.Load(d); ok {
		return nil
	}
	if name := fileOf("files", d); !l.has(name) {
		list := marshalFiles(func(yield func(File) bool) {
			entries(func(e snapshot.Entry) bool { return yield(newFile(&e)) })
		})
		if err := l.disk.WriteFile(name, list); err != nil {
			return err
		}
	}
	l.listed.Store(d, true)
	return nil
}

// files returns what is behind the digest of a selection, if it is known.
func (l *Log) files(d digest.Digest) ([]File, bool) {
	b, err := l.disk.ReadFile(fileOf("files", d))
	if err != nil {
		return nil, false
	}
	return parseFiles(b)
}

// apart returns what is left of two lists without what they begin and end with alike, by path: of many files few change.
func apart(a, b []File) (x, y map[string]File) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	byPath := func(list []File) map[string]File {
		out := make(map[string]File, len(list))
		for _, f := range list {
			out[f.Path] = f
		}
		return out
	}
	return byPath(a), byPath(b)
}

// named is how many changed files are named before the others are counted.
const named = 3

// Differences says what of a became another in b, as causes do: "etc/date changed, +tmp/x". It is "" when nothing did.
func Differences(a, b iter.Seq[snapshot.Entry]) string {
	var lists [2][]File
	for i, entries := range []iter.Seq[snapshot.Entry]{a, b} {
		for e := range entries {
			lists[i] = append(lists[i], newFile(&e))
		}
	}
	return changes(lists[0], lists[1], false)
}

// filesCause says in which way the files of one selection are not those of another. When the operations are not the same,
// one may replace what the other takes from the files: modes and owners that it does not look at are no difference.
func (l *Log) filesCause(old, now digest.Digest, otherOp bool) string {
	list1, ok1 := l.files(old)
	list2, ok2 := l.files(now)
	if !ok1 || !ok2 {
		return "the files changed"
	}
	text := changes(list1, list2, otherOp)
	if text == "" && !otherOp {
		return "the files have the same bytes in another arrangement" // hard links, or the names of sources
	}
	return text
}

// changes says what of a list became another in the other one.
func changes(list1, list2 []File, otherOp bool) string {
	before, after := apart(list1, list2)
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
	return strings.Join(parts, ", ")
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
