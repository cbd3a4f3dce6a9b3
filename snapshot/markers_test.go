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
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
)

// headers reads "f NAME CONTENT", "d NAME", "l NAME TARGET" and "h NAME FILE" into headers of a tar.
func headers(t testing.TB, lines ...string) []tar.Header {
	t.Helper()
	types := map[string]byte{"f": tar.TypeReg, "d": tar.TypeDir, "l": tar.TypeSymlink, "h": tar.TypeLink, "p": tar.TypeFifo}
	var out []tar.Header
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 3), "")
		out = append(out, tar.Header{Typeflag: types[f[0]], Name: f[1], Linkname: f[2], Mode: 0o755, ModTime: epoch})
	}
	return out
}

// contents lists what a view shows, with the content of files.
func contents(t testing.TB, s *Store, id digest.Digest) []string {
	t.Helper()
	return listWith(t, s, id, func(v *View, e Entry) (string, error) {
		switch e.Type {
		case Regular:
			b, _, err := ReadFile(v, e.Path, 1000)
			return " " + string(b), err
		case Symlink:
			return " " + e.Link, nil
		}
		return "", nil
	})
}

// onDisk lists a folder as contents does, without following links.
func onDisk(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			out = append(out, "d "+name)
		case d.Type() == os.ModeSymlink:
			to, _ := os.Readlink(p)
			out = append(out, "l "+name+" "+to)
		case d.Type() == os.ModeNamedPipe:
			out = append(out, "p "+name)
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, "f "+name+" "+string(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mounted lists the trees of a chain as overlayfs shows them.
func mounted(t testing.TB, s *Store, id digest.Digest) []string {
	t.Helper()
	trees, err := s.Trees(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	merged, empty := t.TempDir(), t.TempDir()
	options := "userxattr,lowerdir=" + strings.Join(append(trees, empty), ":")
	if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	return onDisk(t, merged)
}

// flattened lists a chain as plain files.
func flattened(t testing.TB, s *Store, id digest.Digest) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flat")
	if _, err := s.Flatten(t.Context(), id, dir); err != nil {
		t.Fatal(err)
	}
	return onDisk(t, dir)
}

// markers are layers with names that come twice and with markers in odd places, on top of a directory d and a
// file f; and what is to be seen then. What tar(1), Docker and the specification agree on is in here.
var markers = map[string]struct {
	layer []string
	want  []string // nil: the layer is refused
}{
	"a link keeps the first content":           {[]string{"f a one", "h b a", "f a two"}, []string{"f a two", "f b one", "d d", "f d/old old", "f f f"}},
	"two links keep it":                        {[]string{"f a one", "h b a", "h c b", "f a two"}, []string{"f a two", "f b one", "f c one", "d d", "f d/old old", "f f f"}},
	"a link that is replaced":                  {[]string{"f a one", "h b a", "f b two"}, []string{"f a one", "f b two", "d d", "f d/old old", "f f f"}},
	"a file becomes a link to its link":        {[]string{"f a one", "h b a", "h a b"}, []string{"f a one", "f b one", "d d", "f d/old old", "f f f"}},
	"a file that is taken twice":               {[]string{"f a one", "h a a"}, []string{"f a one", "d d", "f d/old old", "f f f"}},
	"a link out of a directory that goes":      {[]string{"d x", "f x/a one", "h b x/a", "f x new"}, []string{"f b one", "d d", "f d/old old", "f f f", "f x new"}},
	"a link out of one that is only implied":   {[]string{"f x/a one", "h b x/a", "f x new"}, []string{"f b one", "d d", "f d/old old", "f f f", "f x new"}},
	"a link through a link":                    {[]string{"d x", "f x/a one", "l y x", "h b y/a"}, []string{"f b one", "d d", "f d/old old", "f f f", "d x", "f x/a one", "l y x"}},
	"a hard link to a symbolic one":            {[]string{"l a f", "h b a", "f a two"}, []string{"f a two", "l b f", "d d", "f d/old old", "f f f"}},
	"a directory in place of a file":           {[]string{"f a one", "d a", "f a/x x"}, []string{"d a", "f a/x x", "d d", "f d/old old", "f f f"}},
	"a directory that comes back is empty":     {[]string{"d x", "f x/a a", "l x f", "d x", "f x/b b"}, []string{"d d", "f d/old old", "f f f", "d x", "f x/b b"}},
	"directories in one that goes":             {[]string{"d x", "d x/y", "d x/z", "f x/z/a a", "f x new"}, []string{"d d", "f d/old old", "f f f", "f x new"}},
	"something below a file":                   {[]string{"f a one", "f a/b x"}, nil},
	"a whiteout":                               {[]string{"f .wh.f"}, []string{"d d", "f d/old old"}},
	"a whiteout before a directory":            {[]string{"f .wh.d", "d d", "f d/new new"}, []string{"d d", "f d/new new", "f f f"}},
	"a whiteout after a directory":             {[]string{"d d", "f d/new new", "f .wh.d"}, []string{"d d", "f d/new new", "f f f"}},
	"a whiteout before an implied directory":   {[]string{"f .wh.d", "f d/new new"}, []string{"d d", "f d/new new", "f f f"}},
	"a whiteout after an implied directory":    {[]string{"f d/new new", "f .wh.d"}, []string{"d d", "f d/new new", "f f f"}},
	"a whiteout of a file that is there again": {[]string{"f f two", "f .wh.f"}, []string{"d d", "f d/old old", "f f two"}},
	"a whiteout in one":                        {[]string{"f .wh.d", "f d/.wh.old"}, []string{"d d", "f f f"}},
	"a marker after files":                     {[]string{"d d", "f d/new new", "f d/.wh..wh..opq"}, []string{"d d", "f d/new new", "f f f"}},
	"a marker without a directory":             {[]string{"f d/.wh..wh..opq", "f d/new new"}, []string{"d d", "f d/new new", "f f f"}},
	"a marker in the root":                     {[]string{"f new new", "f .wh..wh..opq"}, []string{"f new new"}},
	"files of AUFS":                            {[]string{"f .wh..wh.aufs", "d .wh..wh.plnk", "f new new"}, []string{"d d", "f d/old old", "f f f", "f new new"}},
	"names that are nearly gone":               {[]string{"f .wh.f\n", "f .wh.\xff", "f d/.wh....", "f .wh.wh.f"}, []string{"d d", "f d/old old", "f f f"}},
	"a whiteout of nothing":                    {[]string{"f .wh."}, nil},
	"a whiteout of the directory":              {[]string{"f d/.wh.."}, nil},
	"a whiteout of its parent":                 {[]string{"f d/.wh..."}, nil},
}

// The view, the mounted trees and the plain files of a chain show the same, whatever a layer says.
func TestMarkersAndNamesThatComeTwice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	for name, test := range markers {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			base := layerOn(t, s, digest.Digest{}, "d d", "f d/old old", "f f f")
			id, err := tarLayer(t, s, base, headers(t, test.layer...)...)
			if err != nil {
				t.Fatal(err)
			}
			if test.want == nil {
				if _, err := s.View(t.Context(), id); err == nil {
					t.Errorf("it is taken, as %q", contents(t, s, id))
				}
				return
			}
			for kind, list := range map[string]func(testing.TB, *Store, digest.Digest) []string{"view": contents, "mount": mounted, "flat": flattened} {
				got := list(t, s, id)
				slices.Sort(got)
				want := slices.Sorted(slices.Values(test.want))
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s: %s", kind, d)
				}
			}
		})
	}
}

// What an archive holds is the same for ADD: names that come twice mean what they mean in a layer, and markers nothing.
func TestArchivesKnowNoMarkers(t *testing.T) {
	var b bytes.Buffer
	writeTar(t, &b, headers(t, "f a one", "h b a", "f a two", "f .wh.a", "f d/.wh..wh..opq", "f .wh."))
	list, err := ReadArchive(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprintf("%c %s %d", e.Type, e.Path, e.Size))
	}
	if d := cmp.Diff([]string{"f .wh. 0", "f .wh.a 0", "f a 3", "f b 3", "f d/.wh..wh..opq 0"}, got); d != "" {
		t.Error(d)
	}
}

func writeTar(t testing.TB, out io.Writer, headers []tar.Header) {
	t.Helper()
	w := tar.NewWriter(out)
	for _, h := range headers {
		body := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Skip(err) // no tar can say it
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, body)
		}
	}
	w.Close()
}

// FuzzTreeIsWhatTheTableSays makes tars of few names, so that they come twice, below each other, and as links and markers.
func FuzzTreeIsWhatTheTableSays(f *testing.F) {
	for _, test := range markers {
		if test.want != nil {
			f.Add(strings.Join(test.layer, "\n"))
		}
	}
	f.Add("f a x\nd b\nh b/c a\nf a/.wh.b\nl c b\nf c/d y")
	f.Fuzz(func(t *testing.T, text string) {
		var list []tar.Header
		for line := range strings.Lines(text) {
			fields := append(strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3), "", "")
			kind := strings.IndexByte("fdlhp", (fields[0] + "f")[0])
			if kind < 0 || len(list) > 30 || strings.ContainsRune(line, 0) {
				return
			}
			list = append(list, tar.Header{
				Typeflag: []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo}[kind],
				Name:     fields[1], Linkname: fields[2], Mode: 0o755, ModTime: epoch,
			})
		}
		var b bytes.Buffer
		writeTar(t, &b, list)
		dir := t.TempDir()
		x, err := newExtractor(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		toc, err := readLayer(t.Context(), &b, x.entry)
		if err != nil {
			return
		}
		if err := x.hide(toc); err != nil {
			t.Fatalf("hide: %v", err)
		}
		if err := x.finish(); err != nil {
			t.Fatalf("finish: %v", err)
		}
		if ok, err := holds(t.Context(), dir, toc, owners.OneID()); err != nil || !ok {
			t.Errorf("%q: the tree is not what the table of contents says: %v\n%+v", text, err, slices.Collect(toc.Entries.All()))
		}
	})
}
