package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/digest"
)

// A plainRoot is a root file system as whoever unpacks layers one after the other leaves it.
type plainRoot map[string]Entry

// on returns the root with one layer more.
func (r plainRoot) on(t *TOC) plainRoot {
	if t.Opaque {
		r = plainRoot{}
	}
	out := maps.Clone(r)
	removeBelow := func(p string) { maps.DeleteFunc(out, func(q string, _ Entry) bool { return isBelow(q, p) }) }
	for e := range t.Entries.All() { // what the layer takes away goes first
		if e.Type != Dir || e.Opaque {
			removeBelow(e.Path)
		}
		if e.Type == Whiteout {
			delete(out, e.Path)
		}
	}
	for e := range t.Entries.All() {
		for dir := parentOf(e.Path); dir != "."; dir = parentOf(dir) {
			if out[dir].Type != Dir {
				out[dir] = Entry{Path: dir, Type: Dir, Mode: 0o755}
			}
		}
		if e.Type == Whiteout { // as a file of a tree it is in a directory too
			continue
		}
		p := e.Path
		if e.Type == Hardlink {
			e = t.follow(e.Link, r)
			if e.Type == 0 || e.Type == Dir || e.Type == Whiteout { // it cannot be unpacked
				delete(out, p)
				continue
			}
		}
		e.Path, e.Opaque = p, false
		out[p] = e
	}
	return out
}

// follow returns the file that a hard link in t names: in t, or in what is below.
func (t *TOC) follow(link string, below plainRoot) Entry {
	own, ok := t.get(link)
	if !ok {
		return below[link]
	}
	if own.Type == Hardlink {
		return t.follow(own.Link, below)
	}
	return own
}

// randomLayer returns a layer of a few entries, of those few names whose paths meet often. Some are links to what is not in the layer.
func randomLayer(t *testing.T, r *rand.Rand) *TOC {
	t.Helper()
	name := func() string {
		var elems []string
		for range 1 + r.IntN(4) {
			elems = append(elems, string("abc"[r.IntN(3)])+[]string{"", "", "-", "x"}[r.IntN(4)])
		}
		return strings.Join(elems, "/")
	}
	var headers []tar.Header
	files := []string{"a", "b/a"}
	for i := range 1 + r.IntN(6) {
		p := name()
		switch r.IntN(9) {
		case 0:
			headers = append(headers, tar.Header{Name: parentOf(p) + "/.wh." + p[strings.LastIndex(p, "/")+1:], Typeflag: tar.TypeReg})
		case 1:
			headers = append(headers, tar.Header{Name: p + "/.wh..wh..opq", Typeflag: tar.TypeReg})
		case 2, 3:
			headers = append(headers, tar.Header{Name: p + "/", Typeflag: tar.TypeDir, Mode: int64(0o700 + i)})
		case 4:
			headers = append(headers, tar.Header{Name: p, Typeflag: tar.TypeSymlink, Linkname: name()})
		case 5:
			headers = append(headers, tar.Header{Name: p, Typeflag: tar.TypeLink, Linkname: files[r.IntN(len(files))]})
		default:
			headers = append(headers, tar.Header{Name: p, Typeflag: tar.TypeReg, Mode: 0o600, Linkname: fmt.Sprint(r.IntN(1000))})
			files = append(files, p)
		}
	}
	if r.IntN(30) == 0 {
		headers = append(headers, tar.Header{Name: ".wh..wh..opq", Typeflag: tar.TypeReg})
	}
	var b bytes.Buffer
	writeTar(t, &b, headers)
	toc, err := readLayer(t.Context(), &b, nil)
	if err != nil {
		return randomLayer(t, r) // no layer: a name is below a file of the same layer, say
	}
	return toc
}

// A view shows what unpacking the layers would leave, for chains that branch at any place and are asked for in any order.
func TestViewIsWhatUnpackingLeaves(t *testing.T) {
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := testStore(t)
		roots := map[digest.Digest]plainRoot{{}: {}}
		tips := []digest.Digest{{}}
		for range 60 {
			parent := tips[len(tips)-1] // mostly a long chain
			if r.IntN(8) == 0 {
				parent = tips[r.IntN(len(tips))]
			}
			toc := randomLayer(t, r)
			s.tocs.Store(toc.DiffID, toc)
			id := s.foresee(parent, digest.Digest{}, toc.DiffID, toc.Content)
			roots[id] = roots[parent].on(toc)
			tips = append(tips, id)
		}
		r.Shuffle(len(tips), func(i, j int) { tips[i], tips[j] = tips[j], tips[i] })
		for _, id := range tips {
			checkView(t, s, id, roots[id])
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// checkView compares a view with what it should show.
func checkView(t *testing.T, s *Store, id digest.Digest, want plainRoot) {
	t.Helper()
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	show := func(e Entry) string {
		return fmt.Sprintf("%c %s %o %s %s %v", e.Type, e.Path, e.Mode, e.Link, e.Digest, e.Opaque)
	}
	var has, should []string
	err = Walk(v, ".", func(e Entry) (bool, error) {
		if e.Path != "." {
			has = append(has, show(e))
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.SortedFunc(maps.Keys(want), comparePaths) {
		should = append(should, show(want[p]))
	}
	if d := cmp.Diff(should, has); d != "" {
		t.Errorf("-unpacked +seen\n%s", d)
	}
	for _, p := range []string{"a", "b", "a/a", "a/b-", "b/a/c", "a/a/a", "c/cx/a", "b/a/b/c", "cx", "a-"} {
		e, ok, _ := v.Lstat(p)
		if w, there := want[p]; ok != there || ok && show(e) != show(w) {
			t.Errorf("%s is %v %v, want %v %v", p, e, ok, w, there)
		}
	}
}

// A chain costs what its layers hold, and not that for each of its layers: its views share their segments.
func TestViewsOfALongChainShare(t *testing.T) {
	const layers = 4096
	s := testStore(t)
	var id digest.Digest
	for i := range layers {
		toc := &TOC{DiffID: digest.Of(fmt.Append(nil, i)), Entries: ListOf(Entry{Path: "d", Type: Dir}, Entry{Path: fmt.Sprintf("d/%04d", i), Type: Fifo})}
		s.tocs.Store(toc.DiffID, toc)
		id = s.foresee(id, digest.Digest{}, toc.DiffID, toc.DiffID)
	}
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := s.View(t.Context(), id); other != v || err != nil {
		t.Errorf("who asks again gets another view, %v", err)
	}
	nodes := map[any]int{} // of a segment, by what it alone has
	for u := v; u.height > 0; u = u.below {
		if n := len(u.segments); n > 32 {
			t.Fatalf("%d layers are %d segments", u.height, n)
		}
		for _, seg := range u.segments {
			if seg.layer != nil {
				nodes[seg.layer] = seg.len()
			} else {
				nodes[&seg.nodes[0]] = seg.len()
			}
		}
	}
	total := 0
	for _, n := range nodes {
		total += n
	}
	if total > 16*2*layers { // each entry once for every doubling; a copy for each view would be some 1,000 times that
		t.Errorf("%d entries are in segments of %d nodes", 2*layers, total)
	}
	if list, err := v.ReadDir("d"); len(list) != layers || err != nil {
		t.Errorf("%d files %v, want %d", len(list), err, layers)
	}
}

// BenchmarkLongChainView looks at each chain of a stack of layers that hold one file. ns/layer should not grow with the size.
func BenchmarkLongChainView(b *testing.B) {
	for _, n := range []int{500, 1000, 5000} {
		b.Run(fmt.Sprint("layers=", n), func(b *testing.B) {
			for b.Loop() {
				s := testStore(b)
				var id digest.Digest
				for i := range n {
					toc := &TOC{DiffID: digest.Of(fmt.Append(nil, i)), Entries: ListOf(Entry{Path: fmt.Sprint("f", i), Type: Fifo})}
					s.tocs.Store(toc.DiffID, toc)
					id = s.foresee(id, digest.Digest{}, toc.DiffID, toc.DiffID)
					v, err := s.View(b.Context(), id)
					if err != nil {
						b.Fatal(err)
					}
					for _, p := range []string{"f0", "new", "d/new"} {
						if _, _, err := v.Lstat(p); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/layer")
		})
	}
}
