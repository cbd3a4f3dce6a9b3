package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// ChunkDir is the folder of the store where the chunks of compressed blobs are listed, by the digest of the blob. The chunks
// themselves are in the blobs. A list that leads to nothing is of no use, and does no harm.
const ChunkDir = "chunks"

// ChunkFile returns the name of the list of the chunks of a blob, relative to the store.
func ChunkFile(blob digest.Digest) string {
	h := blob.Hex()
	return filepath.Join(ChunkDir, h[:2], h[2:])
}

// A chunkRecord is one chunk of a blob. They follow each other.
type chunkRecord struct {
	Raw    digest.Digest // of the bytes that it gives
	Size   uint32        // compressed, in bytes
	Packed check         // of the compressed bytes
}

// A check shows damage.
type check [16]byte

func checkOf(p []byte) check {
	sum := sha256.Sum256(p)
	return check(sum[:])
}

// chunkRecordSize is that of a chunkRecord on disk.
const chunkRecordSize = sha256.Size + 4 + len(check{})

// chunkListHeader begins a list: what it is, by which compressor the blob was made, and at which level.
type chunkListHeader struct {
	Magic  [4]byte
	Format uint16
	Level  uint16
}

const chunkListHeaderSize = 8

func newChunkListHeader(level int) chunkListHeader {
	return chunkListHeader{Magic: [4]byte([]byte("chnk")), Format: compressorFormat, Level: uint16(level)}
}

// marshalChunks returns a list as it is on disk: header, records, and the digest of both.
func marshalChunks(level int, list []chunkRecord) []byte {
	b := make([]byte, 0, chunkListHeaderSize+len(list)*chunkRecordSize+sha256.Size)
	b, _ = binary.Append(b, binary.LittleEndian, newChunkListHeader(level))
	for _, r := range list {
		b = append(b, r.Raw[:]...)
		b = binary.LittleEndian.AppendUint32(b, r.Size)
		b = append(b, r.Packed[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// parseChunks reads a list. One that is damaged, or of another program, is not ok.
func parseChunks(b []byte) (h chunkListHeader, list []chunkRecord, ok bool) {
	n := len(b) - sha256.Size
	if n < chunkListHeaderSize || (n-chunkListHeaderSize)%chunkRecordSize != 0 || sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return h, nil, false
	}
	binary.Decode(b, binary.LittleEndian, &h) // cannot be too short
	for b = b[chunkListHeaderSize:n]; len(b) > 0; b = b[chunkRecordSize:] {
		r := chunkRecord{Raw: digest.Digest(b[:32]), Size: binary.LittleEndian.Uint32(b[32:]), Packed: check(b[36:chunkRecordSize])}
		if h.Format == compressorFormat && r.Size > bufferSize { // others had chunks of other sizes
			return h, nil, false
		}
		list = append(list, r)
	}
	return h, list, h.Magic == newChunkListHeader(0).Magic
}

// IsChunkList reports whether b is a list of chunks, whole.
func IsChunkList(b []byte) bool {
	_, _, ok := parseChunks(b)
	return ok
}

// maxChunks is how many chunks are remembered in memory, the newest: those of some 40 GB of layers.
const maxChunks = 1 << 16

// A chunkIndex knows where chunks are in blobs. It is read from the store when it is first needed.
type chunkIndex struct {
	disk *cache.Store
	load sync.Once

	mu     sync.Mutex
	places map[chunkKey]chunkPlace
}

type chunkKey struct {
	raw   digest.Digest
	level uint16
}

type chunkPlace struct {
	chunkRecord
	blob   digest.Digest
	offset int64
}

// find returns the compressed bytes of a chunk and their record, or nil when they are not known, or not what they were. They are
// compared here, since a blob that they are taken from is not read to its end.
func (x *chunkIndex) find(raw digest.Digest, level int) ([]byte, chunkRecord) {
	x.load.Do(x.read)
	x.mu.Lock()
	p, ok := x.places[chunkKey{raw, uint16(level)}]
	x.mu.Unlock()
	if !ok {
		return nil, chunkRecord{}
	}
	f, err := x.disk.OpenBlob(p.blob)
	if err != nil {
		return nil, chunkRecord{}
	}
	defer f.Close()
	b := packs.get()[:p.Size]
	if _, err := f.ReadAt(b, p.offset); err != nil || checkOf(b) != p.Packed {
		packs.put(b)
		return nil, chunkRecord{}
	}
	return b, p.chunkRecord
}

// read reads the lists of the store, the newest first, until there are enough.
func (x *chunkIndex) read() {
	type file struct {
		blob digest.Digest
		used time.Time
	}
	var files []file
	for blob, err := range x.disk.Digests(ChunkDir) {
		if err != nil {
			return // then more has to be compressed
		}
		files = append(files, file{blob, x.disk.Used(ChunkFile(blob))})
	}
	slices.SortFunc(files, func(a, b file) int { return b.used.Compare(a.used) })
	n := 0
	for _, f := range files {
		if n >= maxChunks {
			return
		}
		b, err := x.disk.ReadFile(ChunkFile(f.blob))
		if err != nil {
			continue
		}
		if h, list, ok := parseChunks(b); ok && h.Format == compressorFormat {
			x.add(f.blob, h.Level, list)
			n += len(list)
		}
	}
}

// add remembers the chunks of a blob. What is known already stays as it is.
func (x *chunkIndex) add(blob digest.Digest, level uint16, list []chunkRecord) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.places == nil {
		x.places = map[chunkKey]chunkPlace{}
	}
	offset := int64(len(gzipHeader))
	for _, r := range list {
		key := chunkKey{r.Raw, level}
		if _, ok := x.places[key]; !ok {
			x.places[key] = chunkPlace{r, blob, offset}
		}
		offset += int64(r.Size)
	}
}

// keep lists the chunks of a blob that is in the store. What is one chunk is never asked for: it is the whole layer.
func (x *chunkIndex) keep(blob digest.Digest, level int, list []chunkRecord) error {
	if len(list) < 2 {
		return nil
	}
	x.add(blob, uint16(level), list)
	return x.disk.WriteFile(ChunkFile(blob), marshalChunks(level, list))
}
