package source

import (
	"strings"

	"github.com/moby/patternmatcher"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A localDir is a folder that was read. A context may have hundreds of thousands of files, of which all are kept: they take as little memory
// as there is, and entries are made of them when somebody asks.
type localDir struct {
	names   strings.Builder // of all files, one after the other
	files   []localFile     // what is seen, ordered by name
	special map[int]snapshot.Entry
	match   patternmatcher.MatchInfo
	err     error

	read   bool   // to its end
	unseen []byte // what the index knows of files that are there and not seen
	gone   bool   // the index knows files that are not there
}

// A localFile is a file or folder. A link or device is in special as well, and what has a time that no stamp can hold.
type localFile struct {
	stamp   stamp
	digest  digest.Digest // zero when it is not known
	end     uint32        // of its name in the names
	mode    uint16
	kind    snapshot.Type
	linked  bool // it has several names
	lasting bool // the digest holds in later builds, too
}

// add adds what comes next by name.
func (d *localDir) add(name string, e *snapshot.Entry, st stamp) {
	d.names.WriteString(name)
	d.files = append(d.files, localFile{
		stamp: st, digest: e.Digest, end: uint32(d.names.Len()), mode: uint16(e.Mode), kind: e.Type, linked: e.Inode != "", lasting: !e.Digest.IsZero(),
	})
	if e.Type == snapshot.Symlink || e.Type == snapshot.Char || e.Type == snapshot.Block || e.Mtime != st.seconds() {
		if d.special == nil {
			d.special = map[int]snapshot.Entry{}
		}
		d.special[len(d.files)-1] = *e
	}
}

// name returns the name of a file.
func (d *localDir) name(i int) string {
	from := uint32(0)
	if i > 0 {
		from = d.files[i-1].end
	}
	return d.names.String()[from:d.files[i].end]
}

// find returns the index of a file.
func (d *localDir) find(name string) (int, bool) {
	lo, hi := 0, len(d.files)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if d.name(mid) < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(d.files) && d.name(lo) == name
}

// entry returns a file as an entry with the path p.
func (d *localDir) entry(i int, p string) snapshot.Entry {
	f := &d.files[i]
	if e, ok := d.special[i]; ok {
		e.Digest = f.digest
		return e
	}
	e := snapshot.Entry{Path: p, Type: f.kind, Mode: uint32(f.mode), Mtime: f.stamp.seconds()}
	if f.kind == snapshot.Regular {
		e.Size, e.Digest = f.stamp.size, f.digest
	}
	if f.linked {
		e.Inode = f.stamp.inode()
	}
	return e
}

// entries returns all as entries of the folder p. Their paths are cut out of one text.
func (d *localDir) entries(p string) []snapshot.Entry {
	prefix := ""
	if p != "." {
		prefix = p + "/"
	}
	var paths strings.Builder
	paths.Grow(len(prefix)*len(d.files) + d.names.Len())
	list := make([]snapshot.Entry, len(d.files))
	for i := range d.files {
		from := paths.Len()
		paths.WriteString(prefix)
		paths.WriteString(d.name(i))
		list[i] = d.entry(i, paths.String()[from:])
	}
	return list
}
