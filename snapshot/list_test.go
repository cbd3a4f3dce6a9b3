package snapshot

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seed0570efb0/build/internal/digest"
)

// A List gives back what was added, whatever else is added and whatever bytes its path has, finds it when it is ordered, and gives it once when it is drained.
func TestList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var want []Entry
	for i := range 3000 {
		e := Entry{Path: fmt.Sprintf("d/%06d%s", 2*i, strings.Repeat("\n\xff", r.IntN(2100))), Mode: r.Uint32N(0o10000), UID: r.IntN(1 << 20), GID: -r.IntN(3), Mtime: r.Int64() - r.Int64()}
		switch e.Type = []Type{Regular, Symlink, Char, Dir}[r.IntN(4)]; e.Type {
		case Regular:
			e.Size, e.Offset, e.Digest = r.Int64(), r.Int64(), digest.Of([]byte(e.Path))
			if r.IntN(100) == 0 {
				e.Xattrs = map[string]string{"user.large": strings.Repeat("y", maxListBlock), "user.none": ""}
			}
		case Symlink:
			e.Link = strings.Repeat("../", r.IntN(4000))
		case Char:
			e.Major, e.Minor = r.Uint32(), r.Uint32()
		case Dir:
			e.Opaque = r.IntN(2) == 0
		}
		want = append(want, e)
	}
	list := ListOf(want...)
	if d := cmp.Diff(want, slices.Collect(list.All()), cmpopts.IgnoreUnexported(Entry{})); d != "" {
		t.Fatal(d)
	}
	for i, e := range want {
		if at, ok := list.find(e.Path); at != i || !ok {
			t.Errorf("%s is at %d, %v", e.Path, at, ok)
		}
		if at, ok := list.find(e.Path + "!"); at != i+1 || ok {
			t.Errorf("behind %s: %d, %v", e.Path, at, ok)
		}
		if list.path(i) != e.Path || list.kind(i) != e.Type {
			t.Errorf("%d is %c %s", i, list.kind(i), list.path(i))
		}
	}
	order := []int32{5, 2999, 0, 1000}
	for e, i := range list.drain(order) {
		if i != order[0] || e.Path != want[i].Path {
			t.Errorf("drained %d %s, want %d", i, e.Path, order[0])
		}
		order = order[1:]
	}
	for i := len(want) - 1; i >= 0; i-- {
		order = append(order, int32(i))
	}
	whole := ListOf(want...)
	for range whole.drain(order) {
	}
	for i, block := range whole.blocks {
		if block != nil {
			t.Errorf("block %d of %d is kept", i, len(whole.blocks))
		}
	}
}

// An entry takes not much more memory than its path and its digest: layers have hundreds of thousands.
func TestEntriesAreSmall(t *testing.T) {
	const n, most = 50_000, 100 // bytes
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var list List
	for i := range n {
		p := fmt.Sprintf("usr/share/doc/%08d", i)
		list.add(&Entry{Path: p, Type: Regular, Mode: 0o644, Size: 1000, Mtime: 1_700_000_000, Digest: digest.Of([]byte(p))})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; each > most {
		t.Errorf("an entry takes %d bytes, more than %d", each, most)
	}
	runtime.KeepAlive(&list)
}

// A file that comes from an origin with many others can get further names, each of which can be replaced.
func TestNamesOfAFileFromAnOrigin(t *testing.T) {
	s := testStore(t)
	empty, err := s.View(t.Context(), digest.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	c := NewChanges(empty)
	origin := Origin(func(p string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("of " + p)), nil })
	for _, p := range []string{"b", "c", "x"} {
		if err := c.PutFrom(Entry{Path: p, Type: Regular, Mode: 0o640, Size: 4}, &origin); err != nil {
			t.Fatal(err)
		}
	}
	other := Origin(func(p string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("as " + p)), nil })
	if err := c.PutFrom(Entry{Path: "y", Type: Regular, Size: 4}, &other); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"a", "d"} {
		if err := c.Put(Entry{Path: p, Type: Hardlink, Link: "c"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutFrom(Entry{Path: "c", Type: Regular, Size: 4}, &origin); err != nil {
		t.Fatal(err)
	}
	id, err := s.Commit(t.Context(), digest.Digest{}, c, Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"a": "of c", "b": "of b", "c": "of c", "d": "of c", "x": "of x", "y": "as y"} {
		if got, _, err := ReadFile(v, p, 100); string(got) != want || err != nil {
			t.Errorf("%s holds %q, want %q: %v", p, got, want, err)
		}
	}
	var links []string
	for e := range topTOC(t, s, id).Entries.All() {
		if e.Type == Hardlink {
			links = append(links, fmt.Sprintf("%s %s %o", e.Path, e.Link, e.Mode))
		}
	}
	if d := cmp.Diff([]string{"d a 640"}, links); d != "" {
		t.Error(d)
	}
}

// A layer holds the folders that its files are in as they are below, even those that it does not change: its tree is complete in itself.
func TestFoldersOfWhatChanges(t *testing.T) {
	s := testStore(t)
	put := func(below digest.Digest, entries ...Entry) digest.Digest {
		t.Helper()
		base, err := s.View(t.Context(), below)
		if err != nil {
			t.Fatal(err)
		}
		c := NewChanges(base)
		for _, e := range entries {
			if err := c.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }); err != nil {
				t.Fatal(err)
			}
		}
		id, err := s.Commit(t.Context(), below, c, Making{Created: epoch})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	base := put(digest.Digest{}, Entry{Path: "d", Type: Dir, Mode: 0o750, UID: 7, Mtime: 1}, Entry{Path: "d/e", Type: Dir, Mode: 0o700, Mtime: 2})
	top := put(base, Entry{Path: "d/e/f", Type: Regular, Mode: 0o644})
	var got []string
	for e := range topTOC(t, s, top).Entries.All() {
		got = append(got, fmt.Sprintf("%s %c %o %d @%d", e.Path, e.Type, e.Mode, e.UID, e.Mtime))
	}
	if d := cmp.Diff([]string{"d d 750 7 @1", "d/e d 700 0 @2", "d/e/f f 644 0 @0"}, got); d != "" {
		t.Error(d)
	}
}
