package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
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

	mu    sync.Mutex
	files map[string]indexed
	dirty bool
}

type indexed struct {
	stamp  stamp
	digest digest.Digest
}

// OpenStatIndex returns the index of the folder dir. A damaged one is empty.
func OpenStatIndex(store *cache.Store, dir string) *StatIndex {
	h := digest.Of([]byte(dir)).Hex()
	x := &StatIndex{store: store, name: filepath.Join("contexts", h[:2], h[2:]), now: time.Now}
	b, err := store.ReadFile(x.name)
	if err == nil {
		x.files = parseStatIndex(b)
	}
	if x.files == nil {
		x.files = map[string]indexed{}
	}
	return x
}

func (x *StatIndex) lookup(p string, s stamp) (digest.Digest, bool) {
	if x == nil {
		return digest.Digest{}, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	f, ok := x.files[p]
	return f.digest, ok && f.stamp == s
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
	x.files[p] = indexed{s, d}
	x.dirty = true
}

// Save writes the index when something was added. Of two processes the last one's stays:
// what the other one learned is learned again.
func (x *StatIndex) Save() error {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.dirty {
		_ = x.store.Touch(x.name) // it was used
		return nil
	}
	x.dirty = false
	return x.store.WriteFile(x.name, marshalStatIndex(x.files))
}

const statIndexMagic = "build stat index 1\n"

func marshalStatIndex(files map[string]indexed) []byte {
	b := make([]byte, 0, 128*len(files)+64)
	b = append(b, statIndexMagic...)
	for p, f := range files {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
		for _, v := range []uint64{uint64(f.stamp.size), uint64(f.stamp.mtime), uint64(f.stamp.ctime), f.stamp.dev, f.stamp.ino} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		b = append(b, f.digest[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// IsStatIndex reports whether b is a whole index as Save writes it.
func IsStatIndex(b []byte) bool { return parseStatIndex(b) != nil }

// parseStatIndex returns nil for what marshalStatIndex did not write.
func parseStatIndex(b []byte) map[string]indexed {
	n := len(b) - sha256.Size
	if n < len(statIndexMagic) || !bytes.HasPrefix(b, []byte(statIndexMagic)) {
		return nil
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil
	}
	text := string(b[:n])
	b = b[len(statIndexMagic):n]
	files := make(map[string]indexed, len(b)/128)
	const fixed = 5*8 + sha256.Size
	for len(b) > 0 {
		l, k := binary.Uvarint(b)
		if k <= 0 || uint64(len(b)-k) < fixed || l > uint64(len(b)-k-fixed) {
			return nil
		}
		at := len(text) - len(b) + k
		p := text[at : at+int(l)]
		b = b[k+int(l):]
		u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		f := indexed{stamp: stamp{int64(u(0)), int64(u(1)), int64(u(2)), u(3), u(4)}}
		copy(f.digest[:], b[5*8:])
		files[p] = f
		b = b[fixed:]
	}
	return files
}
