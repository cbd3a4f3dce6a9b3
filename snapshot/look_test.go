package snapshot

import (
	"os"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A Look asks for each layer of a stack once. A new one sees what was lost since.
func TestLookRemembersWhatIsWhole(t *testing.T) {
	for name, lose := range map[string]func(file string) error{
		"cut":   func(file string) error { return os.Truncate(file, 100) },
		"empty": func(file string) error { return os.Truncate(file, 0) },
		"gone":  os.Remove,
	} {
		s := testStore(t)
		lower := layerOn(t, s, digest.Digest{}, "f a a")
		upper := layerOn(t, s, lower, "f b b")
		look := s.Look()
		usable := func(l *Look, id digest.Digest, want bool) {
			t.Helper()
			if ok, err := l.Usable(id); ok != want || err != nil {
				t.Errorf("%s: usable is %v %v, want %v", name, ok, err, want)
			}
		}
		usable(look, lower, true)
		c, err := s.Chain(lower)
		if err != nil {
			t.Fatal(err)
		}
		if err := lose(s.disk.Path(cache.BlobFile(c.Layer))); err != nil {
			t.Fatal(err)
		}
		usable(look, upper, true) // of the lower layer it knows
		usable(s.Look(), upper, false)
		usable(s.Look(), lower, false)
	}
}

// Records of chains that do not say how large the tar is are those of older versions: the table of contents says it.
func TestUsableWithoutTheSizeOfTheTar(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f a a")
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Tar == 0 {
		t.Error("the chain does not say how large its tar is")
	}
	old := *c
	old.Tar = 0
	if err := s.writeChain(&old); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Usable(id); !ok || err != nil {
		t.Errorf("usable is %v %v", ok, err)
	}
	for _, size := range []int64{100, 0} { // 0 is no size that a tar has
		if err := os.Truncate(s.disk.Path(cache.BlobFile(c.Layer)), size); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Usable(id); ok || err != nil {
			t.Errorf("cut to %d bytes: usable is %v %v", size, ok, err)
		}
	}
}
