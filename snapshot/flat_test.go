package snapshot

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// flatBase is a chain of two layers with a bit of everything.
func flatBase(t *testing.T, s *Store) digest.Digest {
	t.Helper()
	base := layerOn(t, s, digest.Digest{}, "d dir", "f dir/a aaa", "f dir/b bbb", "d dir/sub", "f dir/sub/c ccc",
		"d gone", "f gone/x x", "f file text", "l link file", "d empty", "d many", "f many/1 1", "f many/2 2", "f many/3 3")
	v, err := s.View(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	c := NewChanges(v)
	place(t, c, "f dir/d ddd", "f top top")
	id, err := s.Commit(t.Context(), base, c, Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestFlatIsTheOverlay runs scripts over a flat root and over an overlay, and expects the same layers.
func TestFlatIsTheOverlay(t *testing.T) {
	scripts := map[string]string{
		"nothing":           `cat file >&2; ls dir >&2`,
		"new file":          `echo new > new`,
		"deep":              `mkdir -p n/e/w; echo x > n/e/w/f; mkdir dir/new; echo y > dir/new/f; mkdir dir/new/in`,
		"change":            `echo more >> file; chmod 600 dir/a; chown 1:2 dir/sub/c`,
		"same bytes":        `echo -n aaa > dir/a`,
		"touch a directory": `touch empty`,
		"remove":            `rm file; rm -r gone; rm dir/b`,
		"remove and remake": `rm -r gone; mkdir gone; echo y > gone/y`,
		"same inode maybe":  `rm -r empty; mkdir empty; rm -r many; mkdir many; echo 2 > many/2`,
		"file to folder":    `rm file; mkdir file; echo z > file/z`,
		"folder to file":    `rm -r dir; echo z > dir`,
		"link":              `rm link; ln -s elsewhere link; ln -s x dir/l`,
		"hard link":         `ln file hard; ln dir/a dir/sub/a`,
		"rename":            `mv file renamed; mv dir/a dir/sub/a`,
		"fifo":              `mkfifo pipe`,
		"made and removed":  `echo x > x; rm x`,
		"made in a folder":  `echo x > dir/x; rm dir/x`,
		"several names":     `echo a > z; ln z m; ln z a`,
		"opened":            `: >> dir/a; : >> dir/sub/c; echo x > dir/sub/y; : >> dir/d; touch dir`,
		"moved folder":      `mkdir n; echo x > n/x; mv n dir/moved; mkdir -p o/p; mv o/p gone/p`,
		"whiteout by hand":  `mknod dir/w c 0 0 2>&- || :; mknod file2 c 0 0 2>&- || :; touch dir`,
		"mark by hand":      `setfattr -n user.overlay.opaque -v y dir; setfattr -n user.overlay.metacopy dir/a; setfattr -n user.build.owner -v 5:6 dir/a`,
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			base := flatBase(t, s)
			want := overlayContent(t, s, base, script)
			got := topEntries(t, s, commitFlat(t, s, base, script))
			if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Entry{}), cmpopts.IgnoreFields(Entry{}, "Offset", "Mtime")); d != "" {
				t.Errorf("-overlay +flat\n%s", d)
			}
		})
	}
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func topEntries(t *testing.T, s *Store, id digest.Digest) []Entry {
	t.Helper()
	return slices.Collect(topTOC(t, s, id).Entries.All())
}

func overlayContent(t *testing.T, s *Store, base digest.Digest, script string) []Entry {
	t.Helper()
	lower, err := s.Trees(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	options := "userxattr,index=off,lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Skipf("no overlay to compare with: %v", err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	shell(t, root, script)
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	id, err := s.CommitTree(t.Context(), base, filepath.Join(dir, "upper"), Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := s.openStream(t.Context(), c.Layer) // made of the tree, and checked
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	return topEntries(t, s, id)
}

// What Place puts there does not show, nor what a step does with it.
func TestFlatPlaces(t *testing.T) {
	s := testStore(t)
	base := flatBase(t, s)
	dir := filepath.Join(t.TempDir(), "root")
	f, err := s.Flatten(t.Context(), base, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{f.Place("etc/hosts", "hosts"), f.Place("dir/a", "other"), f.PlaceDir("gone"), f.PlaceDir("proc"), f.Place("/link", "through a link"), f.Point("/p/o/int", true), f.Mark()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	shell(t, dir, `echo x >> etc/hosts; rm dir/a; mkdir proc/1; echo x > proc/1/x; rm -r gone; echo y > etc/y; test "$(cat file)" = "through a link"`)
	id, err := s.CommitFlat(t.Context(), f, Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range topEntries(t, s, id) {
		got = append(got, string(e.Type)+" "+e.Path)
	}
	if d := cmp.Diff([]string{"d dir", "d etc", "f etc/y", "d proc"}, got); d != "" {
		t.Error(d)
	}
}

// A hidden entry and its marker may come in any order; the flat root is what the view says.
func TestFlatIsTheView(t *testing.T) {
	s := testStore(t)
	base := flatBase(t, s)
	shellLayer := commitFlat(t, s, base, `rm -r dir; mkdir dir; echo n > dir/n; rm file many/2`)
	dir := filepath.Join(t.TempDir(), "root")
	if _, err := s.Flatten(t.Context(), shellLayer, dir); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", "cd "+dir+" && find . -mindepth 1 | sort").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "./dir\n./dir/n\n./empty\n./gone\n./gone/x\n./link\n./many\n./many/1\n./many/3\n./top\n"
	if string(out) != want {
		t.Errorf("got\n%s", out)
	}
}

// commitFlat returns the chain with what a script changes in a folder.
func commitFlat(t *testing.T, s *Store, base digest.Digest, script string) digest.Digest {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	f, err := s.Flatten(t.Context(), base, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Mark(); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, script)
	id, err := s.CommitFlat(t.Context(), f, Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	return id
}
