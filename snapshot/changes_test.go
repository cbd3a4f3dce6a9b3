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

// A file that takes the place of one name of a file leaves the others as they are.
func TestReplacingANameKeepsItsHardLinks(t *testing.T) {
	for name, lines := range map[string][]string{
		"by a file":       {"f a old", "h b a", "h c a", "f a new"},
		"by a directory":  {"f a old", "h b a", "h c a", "d a"},
		"and its links":   {"f a old", "h b a", "h c b", "f a new"},
		"with its folder": {"d d", "f d/a old", "h b d/a", "h c d/a", "f d new"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			id := layerOn(t, s, digest.Digest{}, lines...)
			v, err := s.View(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{"b", "c"} {
				if b, _, err := ReadFile(v, p, 100); string(b) != "old" || err != nil {
					t.Errorf("%s is %q %v, want what it was a link to", p, b, err)
				}
			}
			b, _, _ := v.Lstat("b")
			if c, _, _ := v.Lstat("c"); b.Inode == "" || b.Inode != c.Inode {
				t.Errorf("b and c are no longer one file")
			}
		})
	}
}
