package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A stamp is what stat(2) says of a file that cannot stay the same when its bytes change,
// given that the clock has moved on.
type stamp struct {
	size         int64
	mtime, ctime int64 // nanoseconds since 1970
	dev, ino     uint64
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return makeStamp(&st), nil
}

func makeStamp(st *unix.Stat_t) stamp {
	return stamp{st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Dev, st.Ino}
}

// racy is how old a change must be before a stamp is trusted: two writes within one tick
// of a file system's clock leave the same times. The coarsest in use tick every two seconds.
const racy = 2 * time.Second

// A StatIndex remembers the digests of a folder's files, so that an unchanged file costs a stat
// and not its bytes. A nil index remembers nothing. It is safe for concurrent use.
type StatIndex struct {
	store *cache.Store
	name  string
	now   func() time.Time

	folders map[string][]byte // as they were read: who lists a folder reads its files one after the other

	mu    sync.Mutex
	fresh map[string]map[string]indexed // what this process has learned, by folder and name
}

type indexed struct {
	stamp  stamp
	digest digest.Digest
}

// OpenStatIndex returns the index of the folder dir. A damaged one is empty.
func OpenStatIndex(store *cache.Store, dir string) *StatIndex {
	h := digest.Of([]byte(dir)).Hex()
	x := &StatIndex{store: store, name: filepath.Join("contexts", h[:2], h[2:]), now: time.Now, fresh: map[string]map[string]indexed{}}
	if b, err := store.ReadFile(x.name); err == nil {
		x.folders = parseStatIndex(b)
	}
	return x
}

// A remembered is what is known of the files of one folder. They are asked for in the order of their names.
type remembered struct{ rest []byte }

// folder returns what is known of the files in dir.
func (x *StatIndex) folder(dir string) *remembered {
	if x == nil {
		return &remembered{}
	}
	return &remembered{x.folders[dir]}
}

// digest returns the digest of a file that still looks as it did when it was hashed; otherwise it is zero.
func (r *remembered) digest(name string, s stamp) digest.Digest {
	for len(r.rest) > 0 {
		n, f, rest, ok := cutIndexed(r.rest)
		if !ok || string(n) > name {
			break
		}
		r.rest = rest
		if string(n) == name && f.stamp == s {
			return f.digest
		}
	}
	return digest.Digest{}
}

// time returns the time now, for record.
func (x *StatIndex) time() time.Time {
	if x == nil {
		return time.Time{}
	}
	return x.now()
}

// record remembers d, which began to be computed at the time begun: a write while the file was read may leave
// the times of the write before it.
func (x *StatIndex) record(p string, s stamp, d digest.Digest, begun time.Time) {
	if x == nil || begun.Sub(time.Unix(0, max(s.mtime, s.ctime))) < racy {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	dir, name := filepath.Dir(p), filepath.Base(p)
	if x.fresh[dir] == nil {
		x.fresh[dir] = map[string]indexed{}
	}
	x.fresh[dir][name] = indexed{s, d}
}

// Save writes the index when something was added. Of two processes the last one's stays:
// what the other one learned is learned again.
func (x *StatIndex) Save() error {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.fresh) == 0 {
		_ = x.store.Touch(x.name) // it was used
		return nil
	}
	folders := maps.Clone(x.folders)
	if folders == nil {
		folders = map[string][]byte{}
	}
	for dir, fresh := range x.fresh {
		folders[dir] = mergeIndexed(folders[dir], fresh)
	}
	x.folders, x.fresh = folders, map[string]map[string]indexed{}
	return x.store.WriteFile(x.name, marshalStatIndex(folders))
}

// The file is a magic line, which ends with the version, then for each folder its path and what is known of its files, both with their length before them, then the
// SHA-256 of all. Of a file that is its name, with its length, its stamp and its digest, in the order of names.
const (
	statIndexName  = "build stat index "
	statIndexMagic = statIndexName + "2\n"
)

func marshalStatIndex(folders map[string][]byte) []byte {
	b := []byte(statIndexMagic)
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		for _, part := range [][]byte{[]byte(dir), folders[dir]} {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
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

// parseStatIndex returns the folders, or nil for what marshalStatIndex did not write.
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

// mergeIndexed returns what is known of a folder with fresh in place of what was there of the same files.
func mergeIndexed(old []byte, fresh map[string]indexed) []byte {
	all := maps.Clone(fresh)
	for len(old) > 0 {
		name, f, rest, ok := cutIndexed(old)
		if !ok {
			break
		}
		if _, ok := fresh[string(name)]; !ok {
			all[string(name)] = f
		}
		old = rest
	}
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b = appendIndexed(b, name, all[name])
	}
	return b
}
