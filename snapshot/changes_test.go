package snapshot

import (
	"archive/tar"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/digest"
)

// A directory that hides what is below its own layer hides nothing of that layer from a file that is added later.
func TestAddingToAnOpaqueDirectoryKeepsTheRest(t *testing.T) {
	s := testStore(t)
	base := layerOn(t, s, digest.Digest{}, "d d", "f d/old old")
	mid, err := tarLayer(t, s, base,
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "d/.wh..wh..opq", Typeflag: tar.TypeReg},
		tar.Header{Name: "d/mid", Typeflag: tar.TypeReg, Linkname: "mid"})
	if err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{"a file in it": "f d/new new", "the directory again": "d d"} {
		top := layerOn(t, s, mid, line)
		got := list(t, s, top)
		want := []string{"d d", "f d/mid"}
		if line != "d d" {
			want = append(want, "f d/new")
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
