package snapshot

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/digest"
)

// made makes a layer in each of the ways that a step does, with a file that is many chunks.
var made = map[string]func(t *testing.T, s *Store, m Making) (digest.Digest, error){
	"captured": func(t *testing.T, s *Store, m Making) (digest.Digest, error) {
		dir := upper(t, s)
		if err := os.WriteFile(filepath.Join(dir, "big"), prose(20, 2<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"big", "."} {
			os.Chtimes(filepath.Join(dir, name), epoch, epoch)
		}
		return s.CommitTree(t.Context(), digest.Digest{}, dir, m)
	},
	"placed": func(t *testing.T, s *Store, m Making) (digest.Digest, error) {
		v, err := s.View(t.Context(), digest.Digest{})
		if err != nil {
			t.Fatal(err)
		}
		c := NewChanges(v)
		place(t, c, "f big "+string(prose(20, 2<<20)))
		return s.Commit(t.Context(), digest.Digest{}, c, m)
	},
}

var everyForm = []Compression{
	{MediaType: MediaTypeTarGzip}, {MediaType: MediaTypeTarZstd}, {MediaType: MediaTypeTar},
}

// compressedForms returns what is in the store of a layer, but for its tar.
func compressedForms(t *testing.T, s *Store, id digest.Digest) []Blob {
	t.Helper()
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Blobs(c.Layer)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestLayersAreCompressedWhileTheyAreMade(t *testing.T) {
	for way, make := range made {
		for _, as := range everyForm {
			other := testStore(t)
			id, err := make(t, other, Making{Created: epoch})
			if err != nil {
				t.Fatal(err)
			}
			if l := compressedForms(t, other, id); len(l) != 0 {
				t.Errorf("%s: nobody asked for %+v", way, l)
			}
			c, _ := other.Chain(id)
			want, err := other.Compressed(t.Context(), c, as)
			if err != nil {
				t.Fatal(err)
			}
			for _, awaited := range []bool{false, true} {
				s := testStore(t)
				p := s.NewPacker(t.Context(), as)
				if got, err := make(t, s, Making{Created: epoch, Packer: p, Awaited: awaited}); err != nil || got != id {
					t.Fatal(got, err)
				}
				if err := p.Wait(); err != nil {
					t.Fatal(err)
				}
				got := compressedForms(t, s, id)
				// A tar that is kept is a form already, and is read again rather than have others wait.
				if way == "placed" && (awaited || as.MediaType == MediaTypeTar) {
					if len(got) != 0 {
						t.Errorf("%s, %+v, awaited %v: %+v", way, as, awaited, got)
					}
					p.Pack(id)
					if err := p.Wait(); err != nil {
						t.Fatal(err)
					}
					got = compressedForms(t, s, id)
				}
				if p.begin(c.Layer, as) {
					t.Errorf("%s, %+v, awaited %v: Pack would begin again", way, as, awaited)
				}
				p.Close()
				if as.MediaType == MediaTypeTar {
					want.Format = got[0].Format // a tar has none
				}
				if !cmp.Equal(got, []Blob{want}) {
					t.Errorf("%s, %+v, awaited %v: %+v, want %+v", way, as, awaited, got, want)
				}
			}
		}
	}
}

// The chunks of what is compressed on the way are found by the next layer.
func TestChunksOfTappedLayersAreListed(t *testing.T) {
	s := testStore(t)
	p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	defer p.Close()
	id, err := made["captured"](t, s, Making{Created: epoch, Packer: p})
	if err != nil || p.Wait() != nil {
		t.Fatal(err, p.Wait())
	}
	raw, err := s.disk.ReadFile(ChunkFile(compressedForms(t, s, id)[0].Digest))
	if _, list, ok := parseChunks(raw); err != nil || !ok || len(list) < 3 {
		t.Errorf("%d chunks, %v", len(list), err)
	}
}

// What an earlier build made is compressed as soon as it is known, in all forms, and once.
func TestPackCompressesAllLayersOfAChain(t *testing.T) {
	s := testStore(t)
	one := layerOn(t, s, digest.Digest{}, "f a one")
	two := layerOn(t, s, one, "f a two")
	p := s.NewPacker(t.Context(), everyForm...)
	defer p.Close()
	for range 3 {
		p.Pack(two)
		p.Pack(one)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []digest.Digest{one, two} {
		if n := len(compressedForms(t, s, id)); n != len(everyForm) {
			t.Errorf("%d forms, want %d", n, len(everyForm))
		}
	}
}

func TestErrorsOfCompressionAreToldInTheEnd(t *testing.T) {
	s := testStore(t)
	p := s.NewPacker(t.Context(), Compression{MediaType: "text/plain"})
	defer p.Close()
	id, err := made["captured"](t, s, Making{Created: epoch, Packer: p})
	if err != nil {
		t.Errorf("the layer itself: %v", err)
	}
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || err.Error() != "layer "+c.Layer.String()+`: layers of type "text/plain" cannot be written` {
		t.Errorf("%v", err)
	}
	p = s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	defer p.Close()
	if err := s.dropTree(c.Layer, s.treeForms(c.Layer)[0].path(s, c.Layer), errAltered); err == nil {
		t.Fatal("it was not removed")
	}
	p.Pack(id)
	if err := p.Wait(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a layer that is gone: %v", err)
	}
}

// A layer that is found damaged is gone at once, and a step on top of it fails for that reason, whatever it says, and whatever else
// went wrong before.
func TestDamageExplainsWhyABuildFails(t *testing.T) {
	failed := errors.New("no such file")
	for name, wrong := range map[string]func(p *Packer){
		"nothing else":            func(*Packer) {},
		"another error before it": func(p *Packer) { p.note(errors.New("no space left on device")) },
	} {
		s := testStore(t)
		id, err := made["captured"](t, s, Making{Created: epoch})
		if err != nil {
			t.Fatal(err)
		}
		trees, err := s.Trees(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(trees[0], "big"), []byte("changed"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
		wrong(p)
		p.Pack(id)
		p.Wait()
		p.note(failed)
		if err := p.Explain(failed); !isDamage(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := testStore(t).NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	p.note(errors.New("no space left on device"))
	if err := p.Explain(failed); err != failed {
		t.Errorf("without damage: %v", err)
	}
}

// A layer that is not made leaves nothing behind, and the packer has nothing to tell.
func TestLayersThatAreNotMadeAreNotCompressed(t *testing.T) {
	s := testStore(t)
	p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	broken := errors.New("no more")
	_, err := s.commitNew(digest.Digest{}, Making{Created: epoch, Packer: p}, func(w *Writer) error {
		if err := w.Add(Entry{Path: "a", Type: Regular, Size: 3 << 20}, strings.NewReader(strings.Repeat("a", 3<<20))); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	p.Close()
	nothingLeft(t, s)
}

// nothingLeft checks that no blob and no unfinished file is in the store.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	for _, pattern := range []string{"blobs/sha256/*/*", "tmp/*/b-*", "tmp/*/spool"} {
		if found, _ := filepath.Glob(s.disk.Path(pattern)); len(found) > 0 {
			t.Errorf("%v", found)
		}
	}
}

// When a build ends early, so does compression, whoever waits for whom.
func TestCompressionEndsWithItsBuild(t *testing.T) {
	for name, end := range map[string]func(cancel func(), p *Packer){
		"its context ends":     func(cancel func(), _ *Packer) { cancel() },
		"the packer is closed": func(_ func(), p *Packer) { go p.Close() },
	} {
		s := testStore(t)
		ctx, cancel := context.WithCancel(t.Context())
		p := s.NewPacker(ctx, Compression{MediaType: MediaTypeTarGzip})
		gone := errors.New("the step ended, too")
		_, err := s.commitNew(digest.Digest{}, Making{Created: epoch, Packer: p}, func(w *Writer) error {
			end(cancel, p)
			<-p.ctx.Done()
			err := w.Add(Entry{Path: "a", Type: Regular, Size: 9 << 20}, strings.NewReader(strings.Repeat("a", 9<<20)))
			return errors.Join(err, gone)
		})
		if !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
		p.Close()
		cancel()
		nothingLeft(t, s)
	}
}

// More layers at once than there are places for are left to Pack.
func TestTapsAreFew(t *testing.T) {
	s := testStore(t)
	p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	defer p.Close()
	m := Making{Packer: p}
	var taps []*tap
	for range packers {
		taps = append(taps, m.tap(false))
	}
	if m.tap(false) != nil {
		t.Error("there is one more")
	}
	for _, x := range taps {
		x.end()
	}
	if p.Wait() != nil {
		t.Error(p.Wait())
	}
}

// What others wait for has room in a file, to be ahead of its compression, and nothing else has.
func TestAwaitedLayersAreAheadOfTheirCompression(t *testing.T) {
	s := testStore(t)
	p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
	defer p.Close()
	for awaited, want := range map[bool]int64{true: spoolFile, false: 0} {
		m := Making{Packer: p, Awaited: awaited}
		x := m.tap(false)
		if x.pipe.fresh != want {
			t.Errorf("awaited %v: room for %d blocks, want %d", awaited, x.pipe.fresh, want)
		}
		x.end()
	}
}

// What is in a spool when the build ends is not compressed any more: a slow compression would keep the program from its end.
func TestSpoolsEndWithTheirBuild(t *testing.T) {
	s := testStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := s.NewPacker(t.Context(), Compression{MediaType: MediaTypeTarGzip})
		m := Making{Packer: p}
		x := m.tap(false)
		p.cancel()
		synctest.Wait()
		if err := x.pipe.write([]byte("more")); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		x.end()
		p.Close()
	})
}

// A spool gives what was written, while its writer is ahead of the reader, and when it is not.
func TestSpool(t *testing.T) {
	p := prose(21, 9<<20+1234)
	for name, prepare := range map[string]func(s *spool){
		"in a file": func(*spool) {},
		"a full disk": func(s *spool) {
			var err error
			if s.file, err = os.Open(os.DevNull); err != nil { // where nothing can be written
				t.Fatal(err)
			}
		},
		"closed by the reader": func(s *spool) { s.close(io.ErrClosedPipe) },
	} {
		store := testStore(t)
		s := newSpool(store.disk, true)
		prepare(s)
		read := make(chan error)
		var got strings.Builder
		begin := make(chan struct{})
		go func() {
			<-begin
			read <- s.copyTo(&got)
		}()
		if name != "in a file" {
			close(begin)
		}
		err := s.write(p)
		s.endWriting()
		if name == "in a file" {
			if s.end == 0 {
				t.Error("all of it is in memory")
			}
			nothingLeft(t, store) // whatever ends this process: the file has no name
			close(begin)          // all was written without a reader
		}
		if name == "closed by the reader" {
			if e := <-read; err != io.ErrClosedPipe || e != io.ErrClosedPipe {
				t.Errorf("%s: %v, %v", name, err, e)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-read; err != nil || got.String() != string(p) {
			t.Errorf("%s: %d bytes came, %v", name, got.Len(), err)
		}
		s.remove()
	}
}

// Without a file the writer is a megabyte ahead, and no more.
func TestSpoolInMemory(t *testing.T) {
	disk := testStore(t).disk
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(disk, false)
		wrote, done := 0, make(chan error)
		go func() {
			for range 2 * spoolMemory {
				if err := s.write(make([]byte, spoolBlock)); err != nil {
					done <- err
				}
				wrote++
			}
			s.endWriting()
			close(done)
		}()
		if synctest.Wait(); wrote != spoolMemory {
			t.Errorf("%d blocks were written", wrote)
		}
		if err := s.copyTo(io.Discard); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
