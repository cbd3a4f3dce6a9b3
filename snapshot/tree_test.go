package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/userns"
)

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
	if _, inside := userns.Inside(); !inside { // where nobody makes devices
		if err := c.Put(Entry{Path: "dev", Type: Char, Mode: 0o620, Major: 1, Minor: 3}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(Entry{Path: "gone", Type: Whiteout}, nil); err != nil {
		t.Fatal(err)
	}
	id, err := s.Commit(t.Context(), base, c, Making{Created: epoch})
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
		t.Errorf("diff ID changed:\n%s", cmp.Diff(slices.Collect(want.Entries.All()), slices.Collect(toc.Entries.All()), cmpopts.IgnoreUnexported(Entry{})))
	}
	if got, err := s.CommitTree(t.Context(), base, trees[0], Making{Created: epoch}); err != nil || got != id {
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
