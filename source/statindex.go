package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A stamp is what stat(2) says of a file that cannot stay the same when its bytes change,
// given that the clock has moved on.
type stamp struct {
	size         int64
	mtime, ctime int64 // nanoseconds since 1970, cut off beyond the year 2262
	dev, ino     uint64
}

func statOf(f *os.File) (st unix.Stat_t, err error) {
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st, nil
}

func makeStamp(st *unix.Stat_t) stamp {
	return stamp{st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Dev, st.Ino}
}

// racy is how old a change must be before a stamp is trusted: two writes within one tick
// of a file system's clock leave the same times. The coarsest in use tick every two seconds.
const racy = 2 * time.Second

// seconds is the time of the last change, as tars have it, unless it was cut off.
func (s stamp) seconds() int64 { return time.Unix(0, s.mtime).Unix() }

// inode is what the names of one file have in common.
func (s stamp) inode() string { return fmt.Sprintf("%x:%x", s.dev, s.ino) }

// A StatIndex remembers the digests of a folder's files, so that an unchanged file costs a stat
// and not its bytes. A nil index remembers nothing. It belongs to one Local.
type StatIndex struct {
	store *cache.Store
	name  string
	now   func() time.Time

	folders map[string][]byte // those that were not read to their end, as the file has them: who lists a folder reads its files one after the other
}

type indexed struct {
	stamp  stamp
	digest digest.Digest
}

// OpenStatIndex returns the index of the folder dir. A damaged one is empty.
func OpenStatIndex(store *cache.Store, dir string) *StatIndex {
	h := digest.Of([]byte(dir)).Hex()
	x := &StatIndex{store: store, name: filepath.Join("contexts", h[:2], h[2:]), now: time.Now}
	if b, err := store.ReadFile(x.name); err == nil {
		x.folders = parseStatIndex(b)
		for dir, files := range x.folders {
			x.folders[dir] = bytes.Clone(files) // each can be dropped
		}
	}
	return x
}

// A remembered is what is known of the files of one folder. They are asked for in the order of their names.
type remembered struct {
	rest []byte
	gone bool // somebody did not ask for one
}

// folder returns what is known of the files in dir.
func (x *StatIndex) folder(dir string) *remembered {
	if x == nil {
		return &remembered{}
	}
	return &remembered{rest: x.folders[dir]}
}

// drop forgets a folder that was read: who read it knows more.
func (x *StatIndex) drop(dir string) {
	if x != nil {
		delete(x.folders, dir)
	}
}

// take returns the record of a file, or nil.
func (r *remembered) take(name string) []byte {
	for len(r.rest) > 0 {
		n, _, rest, ok := cutIndexed(r.rest)
		if !ok || string(n) > name {
			break
		}
		record := r.rest[:len(r.rest)-len(rest)]
		r.rest = rest
		if string(n) == name {
			return record
		}
		r.gone = true
	}
	return nil
}

// end reports whether there are records that were not taken.
func (r *remembered) end() bool { return r.gone || len(r.rest) > 0 }

// digestIn returns the digest that a record has of a file that still looks as it did when it was hashed; otherwise it is zero.
func digestIn(record []byte, s stamp) digest.Digest {
	if _, f, _, ok := cutIndexed(record); ok && f.stamp == s {
		return f.digest
	}
	return digest.Digest{}
}

// time returns the time now, for trusts.
func (x *StatIndex) time() time.Time {
	if x == nil {
		return time.Time{}
	}
	return x.now()
}

// trusts reports whether a digest holds as long as the file looks like s. It began to be computed at the time begun: a write while the file was
// read may leave the times of the write before it.
func (x *StatIndex) trusts(s stamp, begun time.Time) bool {
	return x != nil && s != stamp{} && begun.Sub(time.Unix(0, max(s.mtime, s.ctime))) >= racy
}

// Save writes the index when something was learned, or is known of files that are gone. What it knows of folders that were not read stays as long as they
// are there. Of two processes the last one's index stays: what the other one learned is learned again.
func (l *Local) Save() error {
	x := l.index
	if x == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.learned
	for _, d := range l.dirs {
		changed = changed || d.gone
	}
	if !changed {
		_ = x.store.Touch(x.name) // it was used
		return nil
	}
	return x.store.WriteStream(x.name, func(w io.Writer) error { return writeStatIndex(w, l.remembered) })
}

// remembered yields the folders of the next index, in order.
func (l *Local) remembered(yield func(dir string, files []byte) bool) {
	dirs := slices.Collect(maps.Keys(l.index.folders))
	for dir, d := range l.dirs {
		if _, ok := l.index.folders[dir]; !ok && d.read {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	var files []byte
	for _, dir := range dirs {
		if d := l.dirs[dir]; d != nil && d.read {
			files = d.appendIndexed(files[:0])
		} else if l.isThere(dir) {
			files = append(files[:0], l.index.folders[dir]...)
		} else {
			continue
		}
		if len(files) > 0 && !yield(dir, files) {
			return
		}
	}
}

// isThere reports whether there is a folder at a path, ignored or not.
func (l *Local) isThere(dir string) bool {
	f, err := l.root.OpenFile(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP)
	}
	defer f.Close()
	fi, err := f.Stat()
	return err == nil && fi.IsDir()
}

// appendIndexed adds what is known of the files of a folder.
func (d *localDir) appendIndexed(b []byte) []byte {
	unseen := remembered{rest: d.unseen}
	for i := range d.files {
		f := &d.files[i]
		if f.digest.IsZero() || !f.lasting {
			continue
		}
		b = append(b, unseen.until(d.name(i))...)
		b = appendIndexed(b, d.name(i), indexed{f.stamp, f.digest})
	}
	return append(b, unseen.rest...)
}

// until returns the records of the files before name.
func (r *remembered) until(name string) []byte {
	all := r.rest
	for len(r.rest) > 0 {
		n, _, rest, ok := cutIndexed(r.rest)
		if !ok || string(n) >= name {
			break
		}
		r.rest = rest
	}
	return all[:len(all)-len(r.rest)]
}

// The file is a magic line, which ends with the version, then for each folder its path and what is known of its files, both with their length before them, then the
// SHA-256 of all. Of a file that is its name, with its length, its stamp and its digest, in the order of names.
const (
	statIndexName  = "build stat index "
	statIndexMagic = statIndexName + "2\n"
)

func writeStatIndex(w io.Writer, folders iter.Seq2[string, []byte]) error {
	h := sha256.New()
	w = io.MultiWriter(w, h)
	if _, err := io.WriteString(w, statIndexMagic); err != nil {
		return err
	}
	for dir, files := range folders {
		b := binary.AppendUvarint(nil, uint64(len(dir)))
		b = append(b, dir...)
		b = binary.AppendUvarint(b, uint64(len(files)))
		if _, err := w.Write(append(b, files...)); err != nil {
			return err
		}
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// IsStatIndex reports whether b is a whole index. One of another version is, too: it tells this one nothing, and nobody has damaged it.
func IsStatIndex(b []byte) bool {
	body, ok := openStatIndex(b)
	return ok && !bytes.HasPrefix(body, []byte(statIndexMagic)) || parseStatIndex(b) != nil
}

// openStatIndex returns an index of any version without the SHA-256 at its end, with which it must be whole.
func openStatIndex(b []byte) ([]byte, bool) {
	n := len(b) - sha256.Size
	if n < len(statIndexName) || !bytes.HasPrefix(b, []byte(statIndexName)) {
		return nil, false
	}
	sum := sha256.Sum256(b[:n])
	return b[:n], bytes.Equal(sum[:], b[n:])
}

// parseStatIndex returns the folders, or nil for what writeStatIndex did not write.
func parseStatIndex(b []byte) map[string][]byte {
	body, ok := openStatIndex(b)
	if !ok || !bytes.HasPrefix(body, []byte(statIndexMagic)) {
		return nil
	}
	folders := map[string][]byte{}
	for b = body[len(statIndexMagic):]; len(b) > 0; {
		dir, rest, ok := cutPart(b)
		if !ok {
			return nil
		}
		if folders[string(dir)], b, ok = cutPart(rest); !ok {
			return nil
		}
	}
	return folders
}

// cutPart returns the first part of b, which has its length before it, and what follows.
func cutPart(b []byte) (part, rest []byte, ok bool) {
	l, k := binary.Uvarint(b)
	if k <= 0 || l > uint64(len(b)-k) {
		return nil, nil, false
	}
	end := k + int(l)
	return b[k:end:end], b[end:], true
}

// cutIndexed returns the first file of a folder, and what follows.
func cutIndexed(b []byte) (name []byte, f indexed, rest []byte, ok bool) {
	const fixed = 5*8 + sha256.Size
	name, b, ok = cutPart(b)
	if !ok || len(b) < fixed {
		return nil, f, nil, false
	}
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	f.stamp = stamp{int64(u(0)), int64(u(1)), int64(u(2)), u(3), u(4)}
	copy(f.digest[:], b[5*8:])
	return name, f, b[fixed:], true
}

func appendIndexed(b []byte, name string, f indexed) []byte {
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	for _, v := range []uint64{uint64(f.stamp.size), uint64(f.stamp.mtime), uint64(f.stamp.ctime), f.stamp.dev, f.stamp.ino} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(b, f.digest[:]...)
}
