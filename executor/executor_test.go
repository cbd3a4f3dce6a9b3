package executor

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

func newExecutor(t *testing.T) *Executor {
	t.Helper()
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layers := snapshot.New(disk, func(context.Context, snapshot.Blob) (io.ReadCloser, error) { return nil, errors.New("no registry") })
	return &Executor{Layers: layers, Disk: disk, Locals: map[string]snapshot.Tree{}, Now: func() time.Time { return time.Unix(1000, 0) }, Root: sandbox.RootOverlay}
}

// folder gives the executor a context made of specs, as testkit.Tree takes them.
func (x *Executor) folder(t *testing.T, dir string, specs ...string) {
	t.Helper()
	testkit.Tree(t, dir, specs...)
	l, err := source.NewLocal(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	x.Locals["context"] = l
}

// onContext returns a vertex with scratch and the context as inputs.
func onContext(op llb.Op) *llb.Vertex {
	scratch := llb.New(&llb.Image{}, nil, llb.Meta{})
	local := llb.New(&llb.Local{Name: "context"}, nil, llb.Meta{})
	return llb.New(op, []*llb.Vertex{scratch, local}, llb.Meta{})
}

func copyOf(c *llb.Copy) *llb.Vertex {
	c.From = 1
	return onContext(&llb.File{Actions: []llb.Action{c}})
}

func key(t *testing.T, x *Executor, v *llb.Vertex) cache.Key {
	t.Helper()
	k, err := x.Definition(t.Context(), v, make([]cache.Key, 2))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What a COPY selects is its key: by content, not by times, owners of the checkout, or what lies beside.
func TestCopyKeyIsWhatItSelects(t *testing.T) {
	base := []string{"src/a 644 @100 = one", "src/b 755 @100 = two", "src/l -> a", "other = x"}
	copySrc := func() *llb.Vertex {
		return copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/src"}}, Dest: "/"})
	}
	keyOf := func(v *llb.Vertex, change func(dir string)) cache.Key {
		x := newExecutor(t)
		dir := t.TempDir()
		testkit.Tree(t, dir, base...)
		if change != nil {
			change(dir)
		}
		x.folder(t, dir)
		return key(t, x, v)
	}
	want := keyOf(copySrc(), nil)
	for name, c := range map[string]struct {
		change func(dir string)
		same   bool
	}{
		"other folder":     {nil, true},
		"times":            {func(d string) { os.Chtimes(filepath.Join(d, "src/a"), time.Now(), time.Now()) }, true},
		"file beside":      {func(d string) { os.WriteFile(filepath.Join(d, "other"), []byte("y"), 0o644) }, true},
		"mode of the root": {func(d string) { os.Chmod(filepath.Join(d, "src"), 0o700) }, true},
		"bytes":            {func(d string) { os.WriteFile(filepath.Join(d, "src/a"), []byte("ONE"), 0o644) }, false},
		"mode":             {func(d string) { os.Chmod(filepath.Join(d, "src/a"), 0o600) }, false},
		"new file":         {func(d string) { os.WriteFile(filepath.Join(d, "src/c"), nil, 0o644) }, false},
		"removed":          {func(d string) { os.Remove(filepath.Join(d, "src/b")) }, false},
		"renamed":          {func(d string) { os.Rename(filepath.Join(d, "src/b"), filepath.Join(d, "src/c")) }, false},
		"link elsewhere":   {func(d string) { os.Remove(filepath.Join(d, "src/l")); os.Symlink("b", filepath.Join(d, "src/l")) }, false},
		"link becomes file": {func(d string) {
			os.Remove(filepath.Join(d, "src/l"))
			os.WriteFile(filepath.Join(d, "src/l"), []byte("one"), 0o644)
		}, false},
		"empty folder": {func(d string) { os.Mkdir(filepath.Join(d, "src/empty"), 0o755) }, false},
		"hard link": {func(d string) {
			os.Remove(filepath.Join(d, "src/b"))
			os.Link(filepath.Join(d, "src/a"), filepath.Join(d, "src/b"))
		}, false},
	} {
		if got := keyOf(copySrc(), c.change); (got == want) != c.same {
			t.Errorf("%s: same key %v, want %v", name, got == want, c.same)
		}
	}
	if keyOf(copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/src"}}, Dest: "/d"}), nil) == want {
		t.Error("another destination: same key")
	}
}

// Two names of one file are no two files of the same bytes: the image has a hard link for one of them.
func TestHardLinksAreInTheKey(t *testing.T) {
	x := newExecutor(t)
	keyOf := func(specs ...string) cache.Key {
		x.folder(t, t.TempDir(), specs...)
		return key(t, x, copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/"}}, Dest: "/d"}))
	}
	files, links := keyOf("a = x", "b = x", "c = x", "d = x"), keyOf("a = x", "b => a", "c = x", "d => c")
	if files == links {
		t.Error("a hard link has the key of a file")
	}
	if links == keyOf("a = x", "b = x", "c => a", "d => b") {
		t.Error("other names of the same files have the same key")
	}
	if links != keyOf("a = x", "b => a", "c = x", "d => c") {
		t.Error("the same links have another key")
	}
}

// Permission bits and owners that a COPY replaces are in no key: the umask of a checkout shows in the bits.
func TestWhatACopyReplacesIsInNoKey(t *testing.T) {
	x := newExecutor(t)
	whole, onWay := []llb.Source{{Path: "/src"}, {Path: "/f"}}, []llb.Source{{Path: "/src", Include: "sub/x"}}
	for _, tt := range []struct {
		mode    string
		sources []llb.Source
		same    bool
	}{
		{"", whole, false}, {"644", whole, true}, {"u=rwX", whole, false}, {"u=rwX,go=rX", whole, true},
		{"644", onWay, false}, // a folder on the way gives its bits to one that is there
	} {
		keyOf := func(specs ...string) cache.Key {
			x.folder(t, t.TempDir(), specs...)
			return key(t, x, copyOf(&llb.Copy{Sources: tt.sources, Dest: "/d/", Mode: tt.mode}))
		}
		a := keyOf("src/a 644 = one", "src/sub/ 755", "src/sub/x 644 = x", "src/l -> a", "f 664 = f")
		b := keyOf("src/a 600 = one", "src/sub/ 700", "src/sub/x 644 = x", "src/l -> a", "f 600 = f")
		if (a == b) != tt.same {
			t.Errorf("--chmod %q of %v: the same key is %v", tt.mode, tt.sources, a == b)
		}
	}
	scratch := llb.New(&llb.Image{}, nil, llb.Meta{})
	for _, owner := range []*llb.Owner{nil, {Text: "3:3"}} {
		keyOf := func(of string) cache.Key {
			stage := llb.New(&llb.File{Actions: []llb.Action{&llb.Mkdir{Path: "/d/sub", Mode: 0o755, Owner: &llb.Owner{Text: of}}}}, []*llb.Vertex{scratch}, llb.Meta{})
			result, err := x.Execute(t.Context(), stage, make([]digest.Digest, 1))
			if err != nil {
				t.Fatal(err)
			}
			c := &llb.Copy{From: 1, Sources: []llb.Source{{Path: "/d"}}, Dest: "/", Owner: owner}
			v := llb.New(&llb.File{Actions: []llb.Action{c}}, []*llb.Vertex{scratch, stage}, llb.Meta{})
			k, err := x.Content(t.Context(), v, []digest.Digest{{}, result})
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		if a, b := keyOf("1:1"), keyOf("2:2"); (a == b) != (owner != nil) {
			t.Errorf("with --chown %v: the same key is %v", owner != nil, a == b)
		}
	}
}

func TestWildcardKeyCountsNames(t *testing.T) {
	v := func() *llb.Vertex {
		return copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/*.txt", Wildcard: true}}, Dest: "/d/"})
	}
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "a.txt = x")
	before := key(t, x, v())
	x.folder(t, t.TempDir(), "b.txt = x")
	if key(t, x, v()) == before {
		t.Error("a renamed match gives the same key")
	}
	x.folder(t, t.TempDir(), "a.txt = x", "c.md = y")
	if key(t, x, v()) != before {
		t.Error("a file that does not match changes the key")
	}
}

func TestMissingSourceIsNamed(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "a = x")
	_, err := x.Definition(t.Context(), copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/missing"}}, Dest: "/"}), make([]cache.Key, 2))
	var notFound *NotFoundError
	if !errors.As(err, &notFound) || err.Error() != `"/missing": not found` {
		t.Errorf("error %v", err)
	}
}

// The same sources give the same layer whoever copies them, wherever and whenever.
func TestCopyIsDeterministic(t *testing.T) {
	var want digest.Digest
	for range 2 {
		x := newExecutor(t)
		x.folder(t, t.TempDir(), "b/ @4", "b/x 640 @5 = x", "b/y 600 @6 = y", "a @7 = a", "z => a", "l @8 -> b/x")
		v := copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/"}}, Dest: "/dest/"})
		got, err := x.Execute(t.Context(), v, make([]digest.Digest, 2))
		if err != nil {
			t.Fatal(err)
		}
		if !want.IsZero() && got != want {
			view, _ := x.Layers.View(t.Context(), got)
			snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) { t.Logf("%+v", e); return true, nil })
			t.Errorf("%s, and before %s", got, want)
		}
		want = got
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for name, tar := range map[string][]byte{
		"dot dot":      testkit.Tar(t, "../../evil = x"),
		"through link": testkit.Tar(t, "l -> /../../etc", "l/evil = x"),
		"link dot dot": testkit.Tar(t, "h => ../../etc/passwd"),
	} {
		t.Run(name, func(t *testing.T) {
			x := newExecutor(t)
			id, err := x.unpack(t, tar)
			if err != nil {
				t.Logf("refused: %v", err)
				return
			}
			view, _ := x.Layers.View(t.Context(), id)
			for _, p := range []string{"etc/passwd", "d/h"} {
				if _, ok, _ := view.Lstat(p); ok {
					t.Errorf("%s is in the image", p)
				}
			}
			if _, err := os.Lstat("/etc/evil"); err == nil {
				t.Error("a file of the host was made")
			}
		})
	}
}

// unpack adds an archive of the context to /d.
func (x *Executor) unpack(t *testing.T, archive []byte) (digest.Digest, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.tar"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
	x.folder(t, dir)
	v := copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/a.tar"}}, Dest: "/d", Unpack: true})
	return x.Execute(t.Context(), v, make([]digest.Digest, 2))
}

func FuzzUnpack(f *testing.F) {
	f.Add(testkit.Tar(f, "a = x", "d/ 700", "d/l -> ../a", "h => a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x := newExecutor(t)
		id, err := x.unpack(t, b)
		if err != nil {
			return
		}
		view, err := x.Layers.View(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
			if e.Path != "." && e.Path != "d" && e.Path[:2] != "d/" {
				t.Errorf("%q is outside of the destination", e.Path)
			}
			return true, nil
		})
	})
}
