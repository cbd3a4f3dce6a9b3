package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
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
	id, err := s.Commit(t.Context(), parent, c, Making{Created: epoch})
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

// list lists what a view shows.
func list(t testing.TB, s *Store, id digest.Digest) []string {
	t.Helper()
	return listWith(t, s, id, func(*View, Entry) (string, error) { return "", nil })
}

// listWith is list with what more says of each entry.
func listWith(t testing.TB, s *Store, id digest.Digest, more func(*View, Entry) (string, error)) []string {
	t.Helper()
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = Walk(v, ".", func(e Entry) (bool, error) {
		text, err := more(v, e)
		if e.Path != "." {
			out = append(out, fmt.Sprintf("%c %s", e.Type, e.Path)+text)
		}
		return true, err
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
