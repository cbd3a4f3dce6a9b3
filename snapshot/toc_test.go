package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seed0570efb0/build/internal/digest"
)

func TestTOCRoundTrip(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "d etc", "f etc/a hello", "h etc/b etc/a", "l etc/l ../x", "d etc-x", "f etc.conf x")
	toc := topTOC(t, s, id)
	entries := slices.Collect(toc.Entries.All())
	entries[1].Xattrs = map[string]string{"user.a": "\x00\x01", "security.capability": ""}
	toc = &TOC{DiffID: toc.DiffID, Size: toc.Size, Content: toc.Content, Opaque: true, Entries: ListOf(entries...)}
	got, err := ParseTOC(fileOf(toc))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(toc, got, cmpopts.IgnoreFields(TOC{}, "Entries")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(entries, slices.Collect(got.Entries.All()), cmpopts.IgnoreUnexported(Entry{}), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

// fileOf returns the file form of a table of contents.
func fileOf(t *TOC) []byte {
	var b bytes.Buffer
	_ = t.Write(&b) // a buffer takes all
	return b.Bytes()
}

// What is sealed and yet no table of contents is refused, not half of it taken.
func TestParseTOCRefuses(t *testing.T) {
	file := func(n uint64, entries string) []byte {
		b := append([]byte(tocMagic), make([]byte, 2*len(digest.Digest{})+2)...) // no digests, no size, not opaque
		b = append(binary.AppendUvarint(b, n), entries...)
		sum := digest.Of(b)
		return append(b, sum[:]...)
	}
	dir := func(p string) string { return string((&Entry{Path: p, Type: Dir}).append(nil)) }
	if _, err := ParseTOC(file(2, dir("a")+dir("b"))); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("\xff", 9)
	for name, b := range map[string][]byte{
		"out of order":           file(2, dir("b")+dir("a")),
		"a path twice":           file(2, dir("a")+dir("a")),
		"one entry more":         file(1, dir("a")+dir("b")),
		"one entry less":         file(2, dir("a")),
		"half an entry":          file(1, dir("a")[:4]),
		"a path without end":     file(1, string(rune(Dir))+"\x05a"),
		"a number of 65 bits":    file(1, string(rune(Dir))+"\x01a"+long+"\x02"+dir("a")[4:]),
		"a number without end":   file(1, string(rune(Dir))+"\x01a"+long+"\xff\x01"+dir("a")[4:]),
		"attributes without end": file(1, strings.TrimSuffix(dir("a"), "\x00")+long+"\x01"),
		"more than memory holds": file(1<<62, dir("a")),
	} {
		if _, err := ParseTOC(b); !errors.Is(err, errTOC) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseTOC(f *testing.F) {
	t := &TOC{Entries: ListOf(Entry{Path: "a", Type: Dir, Opaque: true}, Entry{Path: "a/b", Type: Regular, Size: 3, Xattrs: map[string]string{"user.x": "y"}}, Entry{Path: "a/c", Type: Char, Major: 1})}
	f.Add(fileOf(t))
	f.Add([]byte(tocMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A sum that fits lets the fuzzer reach what is behind the check of the sum.
		sum := digest.Of(b)
		for _, b := range [][]byte{b, append(slices.Clone(b), sum[:]...)} {
			toc, err := ParseTOC(b)
			if err != nil {
				continue
			}
			entries := slices.Collect(toc.Entries.All())
			for i, e := range entries {
				if at, ok := toc.Entries.find(e.Path); at != i || !ok || toc.Entries.path(i) != e.Path || toc.Entries.kind(i) != e.Type {
					t.Errorf("entry %d, %q, is found at %d, %v", i, e.Path, at, ok)
				}
			}
			made := TOC{Entries: ListOf(entries...)} // the list that was parsed keeps the bytes it got
			again, err := ParseTOC(fileOf(&made))
			if err != nil {
				t.Fatalf("what was parsed cannot be parsed again: %v", err)
			}
			if d := cmp.Diff(entries, slices.Collect(again.Entries.All()), cmpopts.IgnoreUnexported(Entry{})); d != "" {
				t.Error(d)
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
		last := ""
		for e := range toc.Entries.All() {
			if !fs.ValidPath(e.Path) || e.Path == "." {
				t.Errorf("entry %q is not a clean path below the root", e.Path)
			}
			if comparePaths(last, e.Path) >= 0 {
				t.Errorf("entries out of order at %q", e.Path)
			}
			last = e.Path
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

func TestHardLinksComeAfterTheirFile(t *testing.T) {
	s := testStore(t)
	id := layerOn(t, s, digest.Digest{}, "f z content", "h a z", "h m z")
	toc := topTOC(t, s, id)
	var got []string
	for e := range toc.Entries.All() {
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
		toc.Entries.add(&Entry{Path: fmt.Sprintf("usr/share/doc/package/%06d", i), Type: Regular, Mode: 0o644, Size: 1000})
	}
	data := fileOf(toc)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := ParseTOC(data); err != nil {
			b.Fatal(err)
		}
	}
}
