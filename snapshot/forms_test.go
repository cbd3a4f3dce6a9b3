package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// atNextBoot returns the store as it is used after the machine was started again.
func atNextBoot(s *Store) *Store {
	next := New(s.disk, s.fetch)
	next.boot = s.boot + "next"
	return next
}

// foreignLayer stores a layer of all kinds of files, as no Writer would write it.
func foreignLayer(t testing.TB, s *Store) digest.Digest {
	t.Helper()
	base := layerOn(t, s, digest.Digest{}, "d d", "f d/old old", "f f f")
	list := headers(t, "d x", "f x/z zz", "h x/a x/z", "f implied/file ff", "f .wh.f", "f d/.wh..wh..opq", "l x/l a", "p x/p")
	list = append(list,
		tar.Header{Typeflag: tar.TypeReg, Name: "owned", Linkname: "o", Uid: 7, Gid: 8, Mode: 0o4711, ModTime: epoch, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "v"}},
		tar.Header{Typeflag: tar.TypeChar, Name: "x/null", Devmajor: 1, Devminor: 3, ModTime: epoch})
	id, err := tarLayer(t, s, base, list...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A tree that is whole after the machine was started again is read back once, and then trusted for good.
func TestTreeOfAnotherBootIsReadOnce(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	s := testStore(t)
	foreign := foreignLayer(t, s)
	captured, err := s.CommitTree(t.Context(), digest.Digest{}, upper(t, s), Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]digest.Digest{"unpacked": foreign, "captured": captured} {
		before, err := s.Trees(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := os.Stat(before[0])
		next := atNextBoot(s)
		if ok, err := next.Usable(id); !ok || err != nil {
			t.Errorf("%s: it is not usable: %v", name, err)
		}
		after, err := next.Trees(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.Stat(after[0]); err != nil || !os.SameFile(got, want) {
			t.Errorf("%s: the tree was made again: %v", name, err)
		}
		c, _ := next.Chain(id)
		if form, ok := next.findTree(c); !ok || form.boot != "" {
			t.Errorf("%s: it is not known to be on the disk: %+v", name, form)
		}
		// Now nobody reads it: damage does not show.
		damageTree(t, after[0])
		if _, err := atNextBoot(next).Trees(t.Context(), id); err != nil {
			t.Errorf("%s: it was read again: %v", name, err)
		}
	}
}

func damageTree(t testing.TB, tree string) {
	t.Helper()
	names, _ := filepath.Glob(tree + "/*")
	if err := os.RemoveAll(names[len(names)-1]); err != nil {
		t.Fatal(err)
	}
}

// A power cut can take anything of a tree that was not on the disk yet. Such a tree is removed.
func TestTreeThatAPowerCutDamagedIsNotUsed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	times := []unix.Timeval{{Sec: 1}, {Sec: 1}}
	for name, lose := range map[string]func(tree string) error{
		"nothing of a file": func(tree string) error { return os.Truncate(tree+"/x/z", 0) },
		"zeros in a file": func(tree string) error {
			return errors.Join(os.WriteFile(tree+"/x/z", []byte{0, 0}, 0), mtime(tree+"/x/z"))
		},
		"a file":           func(tree string) error { return os.Remove(tree + "/implied/file") },
		"a directory":      func(tree string) error { return os.RemoveAll(tree + "/x") },
		"a link":           func(tree string) error { return os.Remove(tree + "/x/l") },
		"one of two names": func(tree string) error { return os.Remove(tree + "/x/a") },
		"that two are one": func(tree string) error {
			return errors.Join(os.Remove(tree+"/x/a"), os.WriteFile(tree+"/x/a", []byte("zz"), 0o755), mtime(tree+"/x/a"), mtime(tree+"/x"))
		},
		"a mode": func(tree string) error { return os.Chmod(tree+"/owned", 0o644) },
		"an owner": func(tree string) error {
			return errors.Join(os.Chown(tree+"/owned", 0, 0), os.Chmod(tree+"/owned", 0o711|os.ModeSetuid))
		},
		"an attribute":       func(tree string) error { return unix.Removexattr(tree+"/owned", "user.x") },
		"a time":             func(tree string) error { return unix.Utimes(tree+"/owned", times) },
		"a whiteout":         func(tree string) error { return os.Remove(tree + "/f") },
		"what hides a layer": func(tree string) error { return unix.Removexattr(tree+"/d", overlayXattr+"opaque") },
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			id := foreignLayer(t, s)
			trees, err := s.Trees(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if err := lose(trees[0]); err != nil {
				t.Fatal(err)
			}
			next := atNextBoot(s)
			var damaged *cache.DamagedError
			if _, err := next.Trees(t.Context(), id); !errors.As(err, &damaged) {
				t.Fatalf("the error is %v, want that it is damaged", err)
			}
			if _, err := os.Lstat(trees[0]); err == nil {
				t.Error("it is kept")
			}
			if _, err := next.Trees(t.Context(), id); err != nil {
				t.Errorf("it cannot be made again: %v", err)
			}
		})
	}
}

func mtime(p string) error {
	return unix.Lutimes(p, []unix.Timeval{{Sec: epoch.Unix()}, {Sec: epoch.Unix()}})
}

// A captured tree that is lost is a miss: the step runs again, and its tree takes the place of the one that nobody trusts.
func TestCapturedTreeOfAnotherBootIsReplaced(t *testing.T) {
	s := testStore(t)
	id, err := s.CommitTree(t.Context(), digest.Digest{}, upper(t, s), Making{Created: epoch})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := s.Chain(id)
	old := treePath(t, s, c)
	next := atNextBoot(s)
	if again, err := next.CommitTree(t.Context(), digest.Digest{}, upper(t, s), Making{Created: epoch}); err != nil || again != id {
		t.Fatal(again, err)
	}
	if _, err := os.Lstat(old); err == nil {
		t.Error("the old tree is kept")
	}
	damageTree(t, treePath(t, next, c))
	last := atNextBoot(next)
	var damaged *cache.DamagedError
	if _, err := last.Trees(t.Context(), id); !errors.As(err, &damaged) {
		t.Errorf("the error is %v", err)
	}
	if ok, err := last.Usable(id); ok || err != nil {
		t.Errorf("usable = %v %v without any form", ok, err)
	}
}

// The name of a tree says what it is good for.
func TestTreeForms(t *testing.T) {
	for name, want := range map[string]treeForm{
		"tree": {}, "marked": {marked: true}, "tree@b": {boot: "b"}, "marked-c@b": {marked: true, chain: "c", boot: "b"}, "tree-c": {chain: "c"},
	} {
		if got, ok := parseTreeForm(name); got != want || !ok || got.name() != name {
			t.Errorf("%s: %+v %v, called %s", name, got, ok, got.name())
		}
	}
	for _, name := range []string{"toc", "blobs", "", "tre"} {
		if got, ok := parseTreeForm(name); ok {
			t.Errorf("%q is taken for a tree: %+v", name, got)
		}
	}
}

// Attributes with odd names and any bytes go through a tar, and the one that no tar can carry is left out everywhere.
func TestAttributesRoundTrip(t *testing.T) {
	want := map[string]string{"user.line\nbreak": "a\nb", "user.zero": "\x00\x01\x00", "user.empty": "", "user.%3D": "%"}
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := w.Add(Entry{Path: "d", Type: Dir, Mode: 0o755, Mtime: 1, Xattrs: want}, nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	dir := t.TempDir()
	x, err := newExtractor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	toc, err := readLayer(t.Context(), &b, x.entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir+"/d", "user.a=b", []byte("lost"), 0); err != nil {
		t.Fatal(err)
	}
	if err := x.finish(); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	w = NewWriter(&again)
	if err := capture(t.Context(), w, dir, captureOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := got.get("d")
	e.UID, e.GID = 0, 0
	if made, _ := toc.get("d"); !sameFile(e, made) || len(e.Xattrs) != len(want) {
		t.Errorf("%+v, want %+v", e, made)
	}
}

// Capabilities for the root of one user namespace do not keep an image from being used where that one cannot be, nor do
// they make its tree look damaged.
func TestCapabilitiesOfANamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: capabilities are set")
	}
	const v2 = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	v3 := func(root string) string { return v2[:3] + "\x03" + v2[4:] + root }
	for name, test := range map[string]struct{ value, want string }{
		"of all":                {v2, v2},
		"of the host":           {v3("\x00\x00\x00\x00"), v2},
		"of another":            {v3("\x05\x00\x00\x00"), v3("\x05\x00\x00\x00")},
		"of one that cannot be": {v3("\xff\xff\xff\xff"), ""},
	} {
		s := testStore(t)
		id, err := tarLayer(t, s, digest.Digest{}, tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o755, PAXRecords: map[string]string{xattrRecord + capability: test.value}})
		if err != nil {
			t.Fatal(err)
		}
		trees, err := s.Trees(t.Context(), id)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		value := make([]byte, 64)
		n, _ := unix.Getxattr(trees[0]+"/f", capability, value)
		if got := string(value[:max(n, 0)]); got != test.want {
			t.Errorf("%s: %x, want %x", name, got, test.want)
		}
		if _, err := atNextBoot(s).Trees(t.Context(), id); err != nil {
			t.Errorf("%s: after a restart: %v", name, err)
		}
	}
}
