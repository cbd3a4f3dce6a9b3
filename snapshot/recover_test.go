package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// upper makes a folder as a RUN leaves it.
func upper(t *testing.T, s *Store) string {
	t.Helper()
	tmp, err := s.disk.NewTempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tmp.Remove() })
	dir := tmp.Join("upper")
	if err := os.MkdirAll(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "d/f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/f", "d"} {
		if err := os.Chtimes(filepath.Join(dir, name), epoch, epoch); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The table of contents of a RUN's layer is made again from its tree.
func TestLostTOCIsMadeAgainFromTheTree(t *testing.T) {
	s := testStore(t)
	id, err := s.CommitTree(t.Context(), digest.Digest{}, upper(t, s), Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := s.Chain(id)
	for name, lose := range map[string]func(file string) error{
		"cut":     func(file string) error { return os.Truncate(file, 10) },
		"missing": os.Remove,
	} {
		if err := lose(s.disk.Path(layerFile(c.Layer, "toc"))); err != nil {
			t.Fatal(err)
		}
		fresh := New(s.disk, s.fetch)
		v, err := fresh.View(t.Context(), id)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, _, err := ReadFile(v, "d/f", 100); string(b) != "content" || err != nil {
			t.Errorf("%s: %q %v", name, b, err)
		}
		if err := lose(s.disk.Path(layerFile(c.Layer, "toc"))); err != nil {
			t.Fatal(err)
		}
		if _, err := New(s.disk, s.fetch).Trees(t.Context(), id); err != nil {
			t.Errorf("%s: what a RUN is mounted on: %v", name, err)
		}
	}
}

// A layer whose tree was unpacked from a blob is read from the blob: other tools write other tars of the same files.
func TestForeignLayerIsReadFromItsBlob(t *testing.T) {
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	w.WriteHeader(&tar.Header{Name: "./f", Typeflag: tar.TypeReg, Mode: 0o644, Uname: "somebody"})
	w.Close()
	z := gzip.NewWriter(&zipped)
	z.Write(plain.Bytes())
	z.Close()

	s := testStore(t)
	layer := digest.Of(plain.Bytes())
	if _, err := s.disk.WriteBlob(zipped.Bytes()); err != nil {
		t.Fatal(err)
	}
	blob := Blob{Digest: digest.Of(zipped.Bytes()), MediaType: MediaTypeTarGzip, Size: int64(zipped.Len())}
	if err := s.AddBlob(t.Context(), layer, blob); err != nil {
		t.Fatal(err)
	}
	id, err := s.AppendImage([]digest.Digest{layer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Trees(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	c, _ := s.Chain(id)
	if _, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarZstd}); err != nil {
		t.Error(err)
	}
	if !s.hasTree(c) {
		t.Error("the tree, which is right, was removed")
	}
}

// A compressed blob that is damaged is named and removed, whatever its damage does to who reads it.
func TestDamagedCompressedBlobIsRemoved(t *testing.T) {
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644})
	w.Close()
	z := gzip.NewWriter(&zipped)
	z.Write(plain.Bytes())
	z.Close()
	for name, read := range map[string]func(s *Store, id digest.Digest) error{
		"for its contents": func(s *Store, id digest.Digest) error { _, err := s.View(t.Context(), id); return err },
		"for another form": func(s *Store, id digest.Digest) error {
			c, _ := s.Chain(id)
			_, err := s.Compressed(t.Context(), c, Compression{MediaType: MediaTypeTarZstd})
			return err
		},
		"for its tree": func(s *Store, id digest.Digest) error { _, err := s.Trees(t.Context(), id); return err },
	} {
		s := testStore(t)
		layer := digest.Of(plain.Bytes())
		b, err := s.disk.WriteBlob(zipped.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.AddBlob(t.Context(), layer, Blob{Digest: b, MediaType: MediaTypeTarGzip, Size: int64(zipped.Len())}); err != nil {
			t.Fatal(err)
		}
		id, err := s.AppendImage([]digest.Digest{layer})
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(zipped.Bytes())
		bad[len(bad)-10] ^= 0xff
		if err := os.WriteFile(s.disk.Path("blobs/sha256/"+b.Hex()[:2]+"/"+b.Hex()[2:]), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *cache.DamagedError
		if err := read(s, id); !errors.As(err, &damaged) {
			t.Errorf("%s: %v, want a DamagedError", name, err)
		}
		if _, ok := s.disk.BlobSize(b); ok {
			t.Errorf("%s: the damaged blob is kept", name)
		}
	}
}

// An end of the context ends work in the midst of a large file.
func TestWorkEndsWithTheContext(t *testing.T) {
	cause := errors.New("enough")
	const size = 64 << 20
	big := func(cancel context.CancelCauseFunc) io.Reader {
		return io.MultiReader(io.LimitReader(zeros{}, 1<<20), once(func() { cancel(cause) }), io.LimitReader(zeros{}, size-1<<20))
	}
	s := testStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	v, err := s.View(ctx, digest.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	c := NewChanges(v)
	if err := c.Put(Entry{Path: "f", Type: Regular, Size: size}, func() (io.ReadCloser, error) { return io.NopCloser(big(cancel)), nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, digest.Digest{}, c, Making{Created: epoch}); !errors.Is(err, cause) {
		t.Errorf("Commit: %v", err)
	}
	if _, err := s.CommitTree(ctx, digest.Digest{}, upper(t, s), Making{Created: epoch}); !errors.Is(err, cause) {
		t.Errorf("CommitTree: %v", err)
	}
	id := layerOn(t, s, digest.Digest{}, "f f content")
	if _, err := s.Trees(ctx, id); !errors.Is(err, cause) {
		t.Errorf("Trees: %v", err)
	}
	chain, _ := s.Chain(id)
	if _, err := s.Compressed(ctx, chain, Compression{MediaType: MediaTypeTarGzip}); !errors.Is(err, cause) {
		t.Errorf("Compressed: %v", err)
	}
	if _, err := s.inflate(ctx, chain.Layer); err != nil && !errors.Is(err, cause) {
		t.Errorf("inflate: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// once is a reader without bytes that does something when it is reached.
type once func()

func (f once) Read([]byte) (int, error) { f(); return 0, io.EOF }

// Of two that need a compressed layer at once, one makes it.
func TestCompressedIsMadeByOne(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f f content")
	c, _ := s.Chain(id)
	unlock, err := s.disk.Lock(t.Context(), "compress/"+c.Layer.Hex())
	if err != nil {
		t.Fatal(err)
	}
	waiting, waited := make(chan struct{}), make(chan Blob, 1)
	go func() {
		b, err := s.Compressed(waitingContext{t.Context(), waiting}, c, Compression{MediaType: MediaTypeTarGzip})
		if err != nil {
			t.Error(err)
		}
		waited <- b
	}()
	select {
	case <-waiting:
	case <-waited:
		t.Fatal("it does not wait for the one who makes it")
	}
	want, err := s.compress(t.Context(), c, Compression{MediaType: MediaTypeTarGzip})
	if err != nil {
		t.Fatal(err)
	}
	blob := s.disk.Path("blobs/sha256/" + want.Digest.Hex()[:2] + "/" + want.Digest.Hex()[2:])
	before, err := os.Stat(blob)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if b := <-waited; b.Digest != want.Digest {
		t.Errorf("%v, want %v", b.Digest, want.Digest)
	}
	if after, err := os.Stat(blob); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was made again: %v", err)
	}
}

// A waitingContext tells that somebody waits for a lock and for its end, which is the first time that its Done is asked for.
type waitingContext struct {
	context.Context
	waiting chan struct{}
}

func (c waitingContext) Done() <-chan struct{} {
	close(c.waiting)
	return c.Context.Done()
}

// What a full disk keeps from being recorded does not stay either: it would keep the disk full.
func TestLayerThatCannotBeRecordedIsNotKept(t *testing.T) {
	s := testStore(t)
	run := func(s *Store) (digest.Digest, error) {
		return s.CommitTree(t.Context(), digest.Digest{}, upper(t, s), Making{Created: epoch})
	}
	place := func(s *Store) (digest.Digest, error) {
		v, err := s.View(t.Context(), digest.Digest{})
		if err != nil {
			t.Fatal(err)
		}
		c := NewChanges(v)
		if err := c.Put(Entry{Path: "f", Type: Regular}, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(nil)), nil }); err != nil {
			t.Fatal(err)
		}
		return s.Commit(t.Context(), digest.Digest{}, c, Making{Created: epoch})
	}
	for name, make := range map[string]func(*Store) (digest.Digest, error){"RUN": run, "COPY": place} {
		id, err := make(s)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := s.Chain(id)
		toc := s.disk.Path(layerFile(c.Layer, "toc"))
		blob := s.disk.Path("blobs/sha256/" + c.Layer.Hex()[:2] + "/" + c.Layer.Hex()[2:])
		tree := s.disk.Path(layerFile(c.Layer, treeForm{boot: s.boot}.name()))
		for _, f := range []string{toc, blob, tree} {
			if err := os.RemoveAll(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(toc, 0o700); err != nil { // nothing can be written there now
			t.Fatal(err)
		}
		if _, err := make(New(s.disk, s.fetch)); err == nil {
			t.Fatalf("%s: it was recorded", name)
		}
		for _, f := range []string{blob, tree} {
			if _, err := os.Lstat(f); err == nil {
				t.Errorf("%s: %s is kept", name, filepath.Base(f))
			}
		}
	}
}

// Records that are damaged, by whatever, are records that are not there.
func FuzzRecords(f *testing.F) {
	s := testStore(f)
	id := layerOn(f, s, digest.Digest{}, "f a hello")
	c, _ := s.Chain(id)
	if _, err := s.Compressed(f.Context(), c, Compression{MediaType: MediaTypeTarGzip}); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{chainFile(id), layerFile(c.Layer, "blobs")} {
		b, err := s.disk.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{chainFile(id), layerFile(c.Layer, "blobs")} {
			if err := s.disk.WriteFile(name, b); err != nil {
				t.Fatal(err)
			}
		}
		fresh := New(s.disk, s.fetch)
		if got, err := fresh.Chain(id); err == nil && (got.Parent != c.Parent || got.Layer != c.Layer) {
			t.Errorf("another chain: %+v", got)
		}
		if _, err := fresh.Blobs(c.Layer); err != nil {
			t.Error(err)
		}
		if _, err := fresh.Usable(id); err != nil {
			t.Error(err)
		}
	})
}

// A header of 512 bytes can promise a sparse file of any size. Its holes are not read from the tar, so that neither its
// end nor that of the context stops who reads them.
func TestSparseFilesAreBounded(t *testing.T) {
	header := func(size int64) []byte {
		b := make([]byte, 1536)
		for at, text := range map[int]string{0: "f", 100: "0000644", 108: "0000000", 116: "0000000", 124: "00000000000", 136: "00000000000", 156: "S", 257: "ustar  ", 398: "00000000000", 148: "        "} {
			copy(b[at:], text)
		}
		for _, at := range []int{386, 483} { // where the only fragment, which is empty, begins; and the size
			binary.BigEndian.PutUint64(b[at+4:], uint64(size))
			b[at] = 0x80
		}
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	toc, err := readLayer(t.Context(), bytes.NewReader(header(1000)), nil)
	if err != nil || toc.Entries.At(0).Size != 1000 || toc.Entries.At(0).Digest != digest.Of(make([]byte, 1000)) {
		t.Fatalf("a small one: %+v %v", toc, err)
	}
	if _, err := readLayer(t.Context(), bytes.NewReader(header(1<<62)), nil); err == nil {
		t.Error("a huge one is read")
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	_, err = readLayer(ctx, bytes.NewReader(header(maxSparse)), func(_ *Entry, content io.Reader) error {
		for {
			if _, err := content.Read(make([]byte, 1<<16)); err != nil {
				return err
			}
			if n++; n == 3 {
				cancel(cause)
			}
		}
	})
	if !errors.Is(err, cause) || n != 3 {
		t.Errorf("%v after %d reads", err, n)
	}
}

// What a hostile tar can make us keep is bounded.
func TestBoundsOfATar(t *testing.T) {
	for name, s := range map[string]*scan{
		"entries":     {entries: make([]Entry, maxEntries)},
		"names":       {size: maxNames},
		"directories": {replaced: maxReplaced, entries: []Entry{{Path: "a", Type: Dir}}, byPath: map[string]int{"a": 0}, implied: map[string]bool{}},
	} {
		if err := s.add(&Entry{Path: "a", Type: Fifo}, nil); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
