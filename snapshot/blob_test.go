package snapshot

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

func TestDamagedLayersAreMisses(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f a "+strings.Repeat("x", 2000))
	c, _ := s.Chain(id)
	blob := s.disk.Path("blobs/sha256/" + c.Layer.Hex()[:2] + "/" + c.Layer.Hex()[2:])
	fresh := func() *Store { return New(s.disk, s.fetch) }

	flip, err := os.OpenFile(blob, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	flip.WriteAt([]byte("Y"), 600)
	flip.Close()
	if ok, err := fresh().Usable(id); !ok || err != nil {
		t.Fatalf("usable = %v %v: a changed byte does not show in the size", ok, err)
	}
	v, err := fresh().View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var damaged *cache.DamagedError
	if _, _, err := ReadFile(v, "a", 1<<20); !errors.As(err, &damaged) {
		t.Errorf("reading damaged bytes: %v", err)
	}
	if ok, _ := fresh().Usable(id); ok {
		t.Error("still usable after the damage was seen")
	}
	layerOn(t, fresh(), digest.Digest{}, "f a "+strings.Repeat("x", 2000))
	if ok, _ := fresh().Usable(id); !ok {
		t.Error("not usable after it was made again")
	}
	os.Truncate(blob, 100)
	if ok, _ := fresh().Usable(id); ok {
		t.Error("usable although cut short")
	}
}

func TestCompressedIsMadeOnceAndDeterministic(t *testing.T) {
	var want Blob
	for range 2 {
		s := testStore(t)
		id := layerOn(t, s, digest.Digest{}, "f a "+strings.Repeat("hello ", 1_000_000))
		c, _ := s.Chain(id)
		b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
		if err != nil {
			t.Fatal(err)
		}
		if want.Size > 0 && !cmp.Equal(b, want) {
			t.Errorf("%+v, in another store %+v", b, want)
		}
		want = b
		again, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
		if err != nil || !cmp.Equal(again, b) {
			t.Errorf("the second time: %+v %v", again, err)
		}
	}
}

// The uncompressed form of a layer that is here as a tar is that tar: nothing is copied.
func TestUncompressedIsTheTar(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f a hello")
	c, _ := s.Chain(id)
	file := s.disk.Path("blobs/sha256/" + c.Layer.Hex()[:2] + "/" + c.Layer.Hex()[2:])
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTar})
	if err != nil || b.Digest != c.Layer || b.Size != before.Size() {
		t.Errorf("%+v %v", b, err)
	}
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written again: %v", err)
	}
}

// An image may claim that its blob is a layer which it is not. It gets nothing by it.
func TestClaimedBlobsAreNotTrusted(t *testing.T) {
	pack := func(text string) (tarBytes, gz []byte) {
		var b, z bytes.Buffer
		w := NewWriter(&b)
		w.Add(Entry{Path: "f", Type: Regular, Size: int64(len(text))}, strings.NewReader(text))
		w.Close()
		g := gzip.NewWriter(&z)
		g.Write(b.Bytes())
		g.Close()
		return b.Bytes(), z.Bytes()
	}
	goodTar, good := pack("good")
	_, evil := pack("evil")
	layer := digest.Of(goodTar)
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := New(disk, func(_ context.Context, b Blob) (io.ReadCloser, error) {
		for _, data := range [][]byte{good, evil} {
			if digest.Of(data) == b.Digest {
				return io.NopCloser(bytes.NewReader(data)), nil
			}
		}
		return nil, errors.New("no such blob")
	})
	claim := func(data []byte) {
		b := Blob{Digest: digest.Of(data), MediaType: MediaTypeTarGzip, Size: int64(len(data)), Origins: []string{"r.example/x"}}
		if err := s.AddBlob(t.Context(), layer, b); err != nil {
			t.Fatal(err)
		}
	}
	claim(evil)
	claim(good)
	id, err := s.AppendImage([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := s.Chain(id)
	var damaged *cache.DamagedError
	_, err = s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
	if !errors.As(err, &damaged) {
		t.Fatalf("the first claim is wrong, and the error is %v", err)
	}
	b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
	if err != nil || b.Digest != digest.Of(good) {
		t.Errorf("%v %v, want the blob that is the layer", b, err)
	}
	// A layer that is here is not taken from a claim at all.
	s = testStore(t)
	id = layerOn(t, s, digest.Digest{}, "f f good")
	c, _ = s.Chain(id)
	layer = c.Layer
	claim(evil)
	if b, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarGzip}); err != nil || b.Digest == digest.Of(evil) {
		t.Errorf("%v %v, want a blob of our own", b, err)
	}
}

// A layer that came with an image goes out as it came, unless another compression is forced; what is made here has the
// level that was asked for.
func TestCompression(t *testing.T) {
	s := testStore(t)
	tar := bytes.Repeat([]byte("all work and no play\n"), 10_000)
	id := layerOn(t, s, digest.Digest{}, "f a "+string(tar))
	c, _ := s.Chain(id)
	form := func(c *Chain, as Compression) Blob {
		t.Helper()
		b, err := s.Compressed(t.Context(), c, as)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	fast, small := form(c, Compression{MediaType: MediaTypeTarGzip, Level: 1}), form(c, Compression{MediaType: MediaTypeTarGzip, Level: 9})
	if fast.Size <= small.Size || fast.Level != 1 || small.Level != 9 {
		t.Errorf("level 1: %+v, level 9: %+v", fast, small)
	}
	if again := form(c, Compression{MediaType: MediaTypeTarGzip, Level: 1}); !cmp.Equal(again, fast) {
		t.Errorf("the second time: %+v", again)
	}
	came := fast
	came.Origins = []string{"registry.example/base"}
	if err := s.AddBlob(t.Context(), c.Layer, came); err != nil {
		t.Fatal(err)
	}
	for _, as := range []Compression{{MediaType: MediaTypeTarZstd}, {MediaType: MediaTypeTarGzip, Level: 7}, {MediaType: MediaTypeTarGzip, Force: true}} {
		if b := form(c, as); b.Digest != came.Digest {
			t.Errorf("%+v: %+v, it came as %+v", as, b, came)
		}
	}
	if b := form(c, Compression{MediaType: MediaTypeTarZstd, Force: true}); b.MediaType != MediaTypeTarZstd || len(b.Origins) > 0 {
		t.Errorf("forced: %+v", b)
	}
}
