package snapshot

import (
	"testing"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// Files that are later than the time get it; earlier ones, their content, and layers of the base stay.
func TestClamp(t *testing.T) {
	s := testStore(t)
	base := layerOn(t, s, digest.Digest{}, "f base 1")
	id := layerOn(t, s, base, "d dir", "f dir/a hello", "h dir/b dir/a", "l link dir/a")
	id = layerOn(t, s, id, "f dir/c more")
	before, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	was, _, _ := before.Lstat("dir/a")
	limit := time.Unix(was.Mtime-1000, 0)
	clamped, err := s.Clamp(t.Context(), id, 1, limit)
	if err != nil {
		t.Fatal(err)
	}
	view, err := s.View(t.Context(), clamped)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]int64{"base": was.Mtime, "dir": limit.Unix(), "dir/a": limit.Unix(), "dir/c": limit.Unix(), "link": limit.Unix()} {
		if e, ok, _ := view.Lstat(p); !ok || e.Mtime != want {
			t.Errorf("%s: %+v, want the time %d", p, e, want)
		}
	}
	if b, _, err := ReadFile(view, "dir/b", 100); err != nil || string(b) != "hello" {
		t.Errorf("dir/b = %q, %v", b, err)
	}
	if again, err := s.Clamp(t.Context(), clamped, 1, limit); err != nil || again != clamped {
		t.Errorf("what is early enough changes: %v %v", again, err)
	}
	if all, err := s.Clamp(t.Context(), base, 1, limit); err != nil || all != base {
		t.Errorf("a base alone changes: %v %v", all, err)
	}
}
