package snapshot

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// prose returns n bytes that compress like source code, other ones for each seed.
func prose(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	words := strings.Fields("const let var function return export import default from require module this null true false if else for while switch case")
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "%s%d ", words[rng.IntN(len(words))], rng.IntN(5000))
	}
	return b[:n]
}

// noise returns n bytes that do not compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// packed returns p as gzip, and the chunks it was cut into.
func packed(t testing.TB, s *Store, level int, p []byte, write int) ([]byte, []chunkRecord) {
	t.Helper()
	var out bytes.Buffer
	z, err := s.newGzipWriter(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{z}, struct{ io.Reader }{bytes.NewReader(p)}, make([]byte, write)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), z.list
}

func TestGzipIsOneMemberThatEveryoneReads(t *testing.T) {
	s := testStore(t)
	mixed := slices.Concat(prose(1, 3<<20), noise(1, 3<<20), make([]byte, 5<<20), prose(2, 1<<20+17))
	for _, n := range []int{0, 1, chunkMin - 1, chunkMin, chunkMin + 1, chunkMax - 1, chunkMax, chunkMax + 1, len(mixed)} {
		z, list := packed(t, s, gzipLevel, mixed[:n], 64<<10)
		r, err := gzip.NewReader(bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		r.Multistream(false)
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, mixed[:n]) {
			t.Errorf("%d bytes: %d came back, %v", n, len(got), err)
		}
		if n == len(mixed) && len(list) < 8 {
			t.Errorf("%d bytes are %d chunks", n, len(list))
		}
	}
}

// The digests of images depend on these bytes: whoever changes them, or takes a compressor that does, counts compressorFormat up.
func TestCompressorFormat(t *testing.T) {
	s := testStore(t)
	input := slices.Concat(prose(3, 3<<20), noise(3, 1<<20), make([]byte, 3<<20))
	for as, want := range map[Compression]string{
		{MediaType: MediaTypeTarGzip}:           "2f0a98394e506a6b",
		{MediaType: MediaTypeTarGzip, Level: 1}: "f9c8777cf5171342",
		{MediaType: MediaTypeTarGzip, Level: 9}: "e0545cc055a93b06",
		{MediaType: MediaTypeTarZstd}:           "6564c15aac2d9587",
	} {
		var out bytes.Buffer
		z, err := s.compressor(&out, as)
		if err != nil {
			t.Fatal(err)
		}
		z.Write(input)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if got := digest.Of(out.Bytes()).Hex()[:16]; got != want || compressorFormat != 2 {
			t.Errorf("%s, level %d: %s, format %d", as.MediaType, as.Level, got, compressorFormat)
		}
	}
}

func TestGzipDependsOnInputAlone(t *testing.T) {
	p := slices.Concat(prose(4, 4<<20), noise(4, 1<<20), prose(5, 2<<20))
	s := testStore(t)
	want, _ := packed(t, s, gzipLevel, p, 256<<10)
	for _, write := range []int{1 << 10, 4<<20 + 1} {
		if got, _ := packed(t, s, gzipLevel, p, write); !bytes.Equal(got, want) {
			t.Errorf("written %d bytes at a time it is different", write)
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, cores := range []int{1, 7} {
		runtime.GOMAXPROCS(cores)
		if got, _ := packed(t, testStore(t), gzipLevel, p, 256<<10); !bytes.Equal(got, want) {
			t.Errorf("on %d cores it is different", cores)
		}
	}
}

// The workers of zstd take turns: how many cores there are changes no byte.
func TestZstdDependsOnInputAlone(t *testing.T) {
	p := slices.Concat(prose(11, 3<<20), noise(11, 1<<20))
	s := testStore(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	want := digest.Digest{}
	for _, cores := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(cores)
		var out bytes.Buffer
		z, err := s.compressor(&out, Compression{MediaType: MediaTypeTarZstd})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(z, struct{ io.Reader }{bytes.NewReader(p)}); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		if got := digest.Of(out.Bytes()); got != want && cores > 1 {
			t.Errorf("on %d cores it is different", cores)
		} else {
			want = got
		}
	}
}

// A compressor that has worked gives what a new one gives.
func TestCompressorsAreUsedAgain(t *testing.T) {
	for level := flate.BestSpeed; level <= flate.BestCompression; level++ {
		for i := range uint64(6) {
			p := prose(i%3, 100_000+int(i)*5_000)
			got, err := deflate(p, level)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			z, err := flate.NewWriter(&want, level)
			if err != nil {
				t.Fatal(err)
			}
			z.Write(p)
			z.Flush()
			if !bytes.Equal(got, want.Bytes()) {
				t.Fatalf("level %d, use %d: it is different", level, i)
			}
		}
	}
}

func TestArchivesAreNotLargerThanThoseOfGzip(t *testing.T) {
	p := slices.Concat(prose(6, 6<<20), noise(6, 1<<20))
	var other bytes.Buffer
	z, err := gzip.NewWriterLevel(&other, 6)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(p)
	z.Close()
	if ours, _ := packed(t, testStore(t), gzipLevel, p, 256<<10); len(ours)*10 > other.Len()*11 {
		t.Errorf("%d bytes, where gzip -6 gives %d", len(ours), other.Len())
	}
}

// compressedLayer makes a layer with one file, and returns its blob and the chunks of that.
func compressedLayer(t testing.TB, s *Store, content []byte) (Blob, []chunkRecord) {
	t.Helper()
	id := layerOn(t, s, digest.Digest{}, "f a "+string(content))
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.disk.ReadFile(ChunkFile(b.Digest))
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := parseChunks(raw)
	if !ok {
		t.Fatal("the list of chunks is damaged")
	}
	return b, list
}

// newChunks counts the chunks of list that are not in before.
func newChunks(before, list []chunkRecord) (n int) {
	for _, r := range list {
		if !slices.Contains(before, r) {
			n++
		}
	}
	return n
}

// takeable counts the chunks that a store has in another blob.
func takeable(s *Store, list []chunkRecord) (n int) {
	for _, r := range list {
		if b, _ := s.packed.find(r.Raw, gzipLevel); b != nil {
			n++
		}
	}
	return n
}

// A change of one place compresses what is around it again, and the blob is the one that a store makes that knows nothing.
func TestChunksOfOtherLayersAreTakenAgain(t *testing.T) {
	before := prose(7, 8<<20)
	for name, after := range map[string][]byte{
		"one byte changed":   slices.Concat(before[:4<<20], []byte{'#'}, before[4<<20+1:]),
		"one byte put in":    slices.Concat(before[:4<<20], []byte{'#'}, before[4<<20:]),
		"a megabyte removed": slices.Concat(before[:4<<20], before[5<<20:]),
	} {
		s := testStore(t)
		_, old := compressedLayer(t, s, before)
		other := New(s.disk, s.fetch) // as another process sees it
		b, list := compressedLayer(t, other, after)
		if n := newChunks(old, list); n > 4 || len(list) < 10 { // and the tar's header in the first one
			t.Errorf("%s: %d of %d chunks are new", name, n, len(list))
		}
		if fresh, _ := compressedLayer(t, testStore(t), after); fresh.Digest != b.Digest {
			t.Errorf("%s: %s, in an empty store %s", name, b.Digest, fresh.Digest)
		}
	}
}

// Chunks are compared before they are taken: a blob that was damaged, cut short or evicted gives none, and does no harm.
func TestChunksOfDamagedBlobsAreMisses(t *testing.T) {
	before := prose(8, 4<<20)
	after := append(slices.Clone(before), "more"...)
	want, list := compressedLayer(t, testStore(t), after)
	for name, damage := range map[string]func(path string) error{
		"bytes changed": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			for at := int64(100); at < 1<<20; at += 1000 {
				f.WriteAt([]byte{0xaa, 0x55}, at)
			}
			return nil
		},
		"cut short": func(path string) error { return os.Truncate(path, 1000) },
		"evicted":   os.Remove,
	} {
		s := testStore(t)
		b, _ := compressedLayer(t, s, before)
		sound := takeable(s, list)
		if err := damage(s.disk.Path(cache.BlobFile(b.Digest))); err != nil {
			t.Fatal(err)
		}
		other := New(s.disk, s.fetch)
		if n := takeable(other, list); n >= sound || sound < len(list)-2 {
			t.Errorf("%s: %d of %d chunks can be taken, %d before that", name, n, len(list), sound)
		}
		if got, _ := compressedLayer(t, other, after); got.Digest != want.Digest {
			t.Errorf("%s: %s, want %s", name, got.Digest, want.Digest)
		}
	}
}

// What another version of this program has compressed is not exported.
func TestFormsOfOtherCompressorsAreMadeAgain(t *testing.T) {
	s := testStore(t)
	content := prose(9, 4<<20)
	b, _ := compressedLayer(t, s, content)
	c, err := s.Chain(layerOn(t, s, digest.Digest{}, "f a "+string(content)))
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.disk.WriteBlob([]byte("as it was compressed once"))
	if err != nil {
		t.Fatal(err)
	}
	err = s.editBlobs(t.Context(), c.Layer, func([]Blob) []Blob {
		return []Blob{{Digest: old, MediaType: MediaTypeTarGzip, Format: compressorFormat - 1, Size: 25, Proved: true}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip}); err != nil || got.Digest != b.Digest {
		t.Errorf("%+v %v, want %s", got, err, b.Digest)
	}
	h := newChunkListHeader(gzipLevel)
	list := marshalChunks(gzipLevel, []chunkRecord{{Raw: digest.Of(content), Size: 10}})
	if got, _, ok := parseChunks(list); !ok || got != h {
		t.Errorf("%+v %v, want %+v", got, ok, h)
	}
	large := marshalChunks(gzipLevel, []chunkRecord{{Size: 2 * chunkMax}})
	if IsChunkList(large) {
		t.Error("a chunk may be larger than its buffer")
	}
	other := binary.LittleEndian.AppendUint16(bytes.Clone(large[:len(h.Magic)]), compressorFormat-1)
	other = append(other, large[len(other):len(large)-sha256.Size]...)
	if sum := sha256.Sum256(other); !IsChunkList(append(other, sum[:]...)) {
		t.Error("a list of another compressor is damage")
	}
}

// A layer of one chunk needs no list: whoever finds the chunk finds the layer.
func TestSmallLayersHaveNoChunks(t *testing.T) {
	s := testStore(t)
	c, _ := s.Chain(layerOn(t, s, digest.Digest{}, "f a hello"))
	b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.disk.ReadFile(ChunkFile(b.Digest)); !os.IsNotExist(err) {
		t.Errorf("there is a list, or %v", err)
	}
}

func FuzzParseChunks(f *testing.F) {
	f.Add(marshalChunks(5, []chunkRecord{{Size: 7}, {Size: 1 << 20}}))
	f.Add(marshalChunks(5, nil))
	f.Add([]byte("chnk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, list, ok := parseChunks(b)
		if ok && h.Format == compressorFormat && !bytes.Equal(marshalChunks(int(h.Level), list), b) {
			t.Error("it is read as another one")
		}
	})
}

// BenchmarkCompress compresses what no store knows, and what differs from a known layer in one place.
func BenchmarkCompress(b *testing.B) {
	p := prose(10, 32<<20)
	for name, known := range map[string]bool{"new": false, "changed": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				b.StopTimer()
				s := testStore(b)
				if known {
					compressedLayer(b, s, p)
				}
				changed := slices.Concat(p[:16<<20], []byte{'#'}, p[16<<20:])
				id := layerOn(b, s, digest.Digest{}, "f a "+string(changed))
				c, err := s.Chain(id)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := s.Compressed(b.Context(), c, Compression{MediaType: MediaTypeTarGzip}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
