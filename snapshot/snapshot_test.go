package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

var epoch = time.Unix(1_700_000_000, 0)

func testStore(t testing.TB) *Store {
	t.Helper()
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return New(disk, func(context.Context, Blob) (io.ReadCloser, error) { return nil, errors.New("no registry in this test") })
}

// place puts "path type content" lines into changes: "d a/b", "f a/b/c hello", "l a/l target", "h a/h target".
func place(t testing.TB, c *Changes, lines ...string) {
	t.Helper()
	for _, line := range lines {
		f := strings.SplitN(line, " ", 3)
		e := Entry{Path: f[1], Type: Type(f[0][0]), Mode: 0o644, Mtime: epoch.Unix()}
		rest := ""
		if len(f) == 3 {
			rest = f[2]
		}
		switch e.Type {
		case Dir:
			e.Mode = 0o755
		case Regular:
			e.Size = int64(len(rest))
		case Symlink, Hardlink:
			e.Link = rest
		}
		if err := c.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(rest)), nil }); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

func layerOn(t testing.TB, s *Store, parent digest.Digest, lines ...string) digest.Digest {
	t.Helper()
	v, err := s.View(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	c := NewChanges(v)
	place(t, c, lines...)
	id, err := s.Commit(t.Context(), parent, c, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// tarLayer stores a tar that was made elsewhere as a layer on parent.
func tarLayer(t testing.TB, s *Store, parent digest.Digest, headers ...tar.Header) (digest.Digest, error) {
	t.Helper()
	var b bytes.Buffer
	writeTar(t, &b, headers)
	d, err := s.disk.WriteBlob(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return s.Append(parent, d, d, time.Time{})
}

// topTOC returns the table of contents of a chain's topmost layer.
func topTOC(t testing.TB, s *Store, id digest.Digest) *TOC {
	t.Helper()
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	toc, err := s.TOC(t.Context(), c.Layer)
	if err != nil {
		t.Fatal(err)
	}
	return toc
}

func list(t testing.TB, s *Store, id digest.Digest) []string {
	t.Helper()
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = Walk(v, ".", func(e Entry) (bool, error) {
		if e.Path != "." {
			out = append(out, fmt.Sprintf("%c %s", e.Type, e.Path))
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// treePath returns where the tree of the chain's topmost layer is.
func treePath(t testing.TB, s *Store, c *Chain) string {
	t.Helper()
	form, ok := s.findTree(c)
	if !ok {
		t.Fatalf("there is no tree of %s", c.Layer)
	}
	return form.path(s, c.Layer)
}

func TestTOCRoundTrip(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "d etc", "f etc/a hello", "h etc/b etc/a", "l etc/l ../x", "d etc-x", "f etc.conf x")
	toc := topTOC(t, s, id)
	toc.Entries[1].Xattrs = map[string]string{"user.a": "\x00\x01", "security.capability": ""}
	got, err := ParseTOC(toc.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(toc, got, cmpopts.IgnoreUnexported(Entry{}), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func FuzzParseTOC(f *testing.F) {
	t := &TOC{Entries: []Entry{{Path: "a", Type: Dir, Opaque: true}, {Path: "a/b", Type: Regular, Size: 3, Xattrs: map[string]string{"user.x": "y"}}, {Path: "a/c", Type: Char, Major: 1}}}
	f.Add(t.Marshal())
	f.Add([]byte(tocMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A sum that fits lets the fuzzer reach what is behind the check of the sum.
		sum := digest.Of(b)
		for _, b := range [][]byte{b, append(slices.Clone(b), sum[:]...)} {
			toc, err := ParseTOC(b)
			if err != nil {
				continue
			}
			if again, err := ParseTOC(toc.Marshal()); err != nil || len(again.Entries) != len(toc.Entries) {
				t.Errorf("what was parsed cannot be parsed again: %v", err)
			}
		}
	})
}

func FuzzReadLayer(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Add(Entry{Path: "d", Type: Dir, Opaque: true}, nil)
	w.Add(Entry{Path: "d/f", Type: Regular, Size: 2}, strings.NewReader("hi"))
	w.Add(Entry{Path: "d/gone", Type: Whiteout}, nil)
	w.Add(Entry{Path: "l", Type: Symlink, Link: "../../x"}, nil)
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		toc, err := readLayer(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		for i, e := range toc.Entries {
			if !fs.ValidPath(e.Path) || e.Path == "." {
				t.Errorf("entry %q is not a clean path below the root", e.Path)
			}
			if i > 0 && comparePaths(toc.Entries[i-1].Path, e.Path) >= 0 {
				t.Errorf("entries out of order at %q", e.Path)
			}
		}
	})
}

func TestPathOrderKeepsDirectoriesTogether(t *testing.T) {
	want := []string{"a", "a/b", "a/b/c", "a/b-c", "a-b", "a-b/x", "a.x", "b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, comparePaths)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestViewShowsWhatLayersLeave(t *testing.T) {
	s := testStore(t)
	base := layerOn(t, s, digest.Digest{}, "d a", "f a/1 one", "f a/2 two", "d a/sub", "f a/sub/x x", "d b", "f b/f f", "f c c")
	top, err := tarLayer(t, s, base,
		tar.Header{Name: "a/.wh.1", Typeflag: tar.TypeReg},
		tar.Header{Name: "a/3", Typeflag: tar.TypeReg, Linkname: "three", Mode: 0o600},
		tar.Header{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "b/.wh..wh..opq", Typeflag: tar.TypeReg},
		tar.Header{Name: "b/new", Typeflag: tar.TypeReg, Linkname: "new"},
		tar.Header{Name: ".wh.c", Typeflag: tar.TypeReg},
		tar.Header{Name: "deep/er/file", Typeflag: tar.TypeReg, Linkname: "x"},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d a", "f a/2", "f a/3", "d a/sub", "f a/sub/x", "d b", "f b/new", "d deep", "d deep/er", "f deep/er/file"}
	if d := cmp.Diff(want, list(t, s, top)); d != "" {
		t.Error(d)
	}
	v, _ := s.View(t.Context(), top)
	for p, want := range map[string]string{"a/2": "two", "a/3": "three", "b/new": "new"} {
		if b, ok, err := ReadFile(v, p, 100); string(b) != want || !ok || err != nil {
			t.Errorf("%s = %q %v %v, want %q", p, b, ok, err, want)
		}
	}
	for _, p := range []string{"a/1", "b/f", "c", "c/d", "a/2/x"} {
		if _, ok, _ := v.Lstat(p); ok {
			t.Errorf("%s is there", p)
		}
	}
}

func TestResolveStaysInside(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "d real", "l link /real", "l up ../../../real", "l loop loop", "l chain link/../link", "f real/f x")
	v, _ := s.View(t.Context(), id)
	for p, want := range map[string]string{
		"link/f": "real/f", "up/f": "real/f", "chain/f": "real/f", "../../link": "real", "nope/x": "nope/x", "/": ".", "link/..": ".",
	} {
		if got, err := Resolve(v, p, true); got != want || err != nil {
			t.Errorf("Resolve(%q) = %q %v, want %q", p, got, err, want)
		}
	}
	if got, _ := Resolve(v, "real/../link", false); got != "link" {
		t.Errorf("last element followed: %q", got)
	}
	if _, err := Resolve(v, "loop/x", true); !errors.Is(err, errLoop) {
		t.Errorf("loop: %v", err)
	}
}

// A layer becomes a tree and the tree a layer: the bytes are the same.
func TestTreeRoundTrip(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	s := testStore(t)
	base := layerOn(t, s, digest.Digest{}, "d keep", "f keep/x x", "f gone g")
	v, _ := s.View(t.Context(), base)
	c := NewChanges(v)
	place(t, c, "d dir", "f dir/file content", "h dir/link dir/file", "l dir/sym ../dir/file", "p fifo")
	owned := Entry{Path: "owned", Type: Regular, Mode: 0o4755, UID: 12, GID: 34, Size: 3, Mtime: 5, Xattrs: map[string]string{"user.k": "v",
		"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}
	if err := c.Put(owned, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(Entry{Path: "dev", Type: Char, Mode: 0o620, Major: 1, Minor: 3}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(Entry{Path: "gone", Type: Whiteout}, nil); err != nil {
		t.Fatal(err)
	}
	id, err := s.Commit(t.Context(), base, c, epoch)
	if err != nil {
		t.Fatal(err)
	}
	trees, err := s.Trees(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(trees) != 2 {
		t.Fatalf("%d trees, want 2", len(trees))
	}
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := capture(t.Context(), w, trees[0], captureOptions{marked: owners.OneID()}); err != nil {
		t.Fatal(err)
	}
	toc, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := s.Chain(id)
	if toc.DiffID != chain.Layer {
		want, _ := s.TOC(t.Context(), chain.Layer)
		t.Errorf("diff ID changed:\n%s", cmp.Diff(want.Entries, toc.Entries, cmpopts.IgnoreUnexported(Entry{})))
	}
	if got, err := s.CommitTree(t.Context(), base, trees[0], nil, epoch); err != nil || got != id {
		t.Errorf("CommitTree = %v %v, want %v", got, err, id)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(treePath(t, s, chain), "gone"), &st); err != nil || st.Mode != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout is %o %d %v, want a character device 0:0", st.Mode, st.Rdev, err)
	}
}

// Directories that a layer leaves out have, in its tree, the metadata they have below.
func TestImpliedDirectoriesKeepMetadata(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	s := testStore(t)
	base, err := tarLayer(t, s, digest.Digest{}, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o710, Uid: 7, ModTime: epoch})
	if err != nil {
		t.Fatal(err)
	}
	top, err := tarLayer(t, s, base, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	trees, err := s.Trees(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(trees[0], "d"), &st); err != nil || st.Mode&0o7777 != 0o710 || st.Uid != 7 || st.Mtim.Sec != epoch.Unix() {
		t.Errorf("d is %o %d %d %v", st.Mode, st.Uid, st.Mtim.Sec, err)
	}
}

func TestHostileArchives(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(outside)
	cases := map[string][]tar.Header{
		"dot dot":           {{Name: "../../../" + outside, Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"absolute":          {{Name: outside, Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"through a link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: dir}, {Name: "l/victim", Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"link to the host":  {{Name: "h", Typeflag: tar.TypeLink, Linkname: outside}, {Name: "h", Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"link dot dot":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../.." + outside}},
		"link through link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: dir}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/victim"}},
		"whiteout dot dot":  {{Name: ".wh...", Typeflag: tar.TypeReg}},
		"file as parent":    {{Name: "a", Typeflag: tar.TypeReg, Linkname: "x"}, {Name: "a/b", Typeflag: tar.TypeReg, Linkname: "y"}},
	}
	for name, headers := range cases {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			id, err := tarLayer(t, s, digest.Digest{}, headers...)
			if err == nil {
				_, err = s.Trees(t.Context(), id)
			}
			t.Logf("error: %v", err)
			if b, err := os.ReadFile(outside); string(b) != "safe" || err != nil {
				t.Fatalf("the file outside is %q %v", b, err)
			}
			if names, _ := os.ReadDir(dir); len(names) != 1 {
				t.Fatalf("something was made outside: %v", names)
			}
		})
	}
}

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
		b, err := s.Compressed(t.Context(), c, MediaTypeTarGzip)
		if err != nil {
			t.Fatal(err)
		}
		if want.Size > 0 && !cmp.Equal(b, want) {
			t.Errorf("%+v, in another store %+v", b, want)
		}
		want = b
		again, err := s.Compressed(t.Context(), c, MediaTypeTarGzip)
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
	b, err := s.Compressed(t.Context(), c, MediaTypeTar)
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
	_, err = s.Compressed(t.Context(), c, MediaTypeTarGzip)
	if !errors.As(err, &damaged) {
		t.Fatalf("the first claim is wrong, and the error is %v", err)
	}
	b, err := s.Compressed(t.Context(), c, MediaTypeTarGzip)
	if err != nil || b.Digest != digest.Of(good) {
		t.Errorf("%v %v, want the blob that is the layer", b, err)
	}
	// A layer that is here is not taken from a claim at all.
	s = testStore(t)
	id = layerOn(t, s, digest.Digest{}, "f f good")
	c, _ = s.Chain(id)
	layer = c.Layer
	claim(evil)
	if b, err := s.Compressed(t.Context(), c, MediaTypeTarGzip); err != nil || b.Digest == digest.Of(evil) {
		t.Errorf("%v %v, want a blob of our own", b, err)
	}
}

func TestHardLinksComeAfterTheirFile(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f z content", "h a z", "h m z")
	toc := topTOC(t, s, id)
	var got []string
	for _, e := range toc.Entries {
		got = append(got, fmt.Sprintf("%c %s %s", e.Type, e.Path, e.Link))
	}
	if d := cmp.Diff([]string{"f a ", "h m a", "h z a"}, got); d != "" {
		t.Error(d)
	}
	v, _ := s.View(t.Context(), id)
	if b, _, err := ReadFile(v, "z", 100); string(b) != "content" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

func BenchmarkTOC(b *testing.B) {
	toc := &TOC{}
	for i := range 50_000 {
		toc.Entries = append(toc.Entries, Entry{Path: fmt.Sprintf("usr/share/doc/package/%06d", i), Type: Regular, Mode: 0o644, Size: 1000})
	}
	data := toc.Marshal()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := ParseTOC(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLayerDiff(b *testing.B) {
	dir := b.TempDir()
	for i := range 5000 {
		d := filepath.Join(dir, fmt.Sprint(i/100))
		os.MkdirAll(d, 0o755)
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), bytes.Repeat([]byte("x"), 3000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		w := NewWriter(io.Discard)
		if err := capture(b.Context(), w, dir, captureOptions{}); err != nil {
			b.Fatal(err)
		}
		toc, err := w.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(toc.Size)
	}
}
