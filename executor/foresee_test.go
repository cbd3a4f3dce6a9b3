package executor

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// What is foreseen of a step has the content of what the step gives, also on top of what is only foreseen itself.
func TestForeseenContent(t *testing.T) {
	epoch := int64(7)
	from := func(path, dest string) *llb.Copy {
		return &llb.Copy{From: 1, Sources: []llb.Source{{Path: path}}, Dest: dest}
	}
	owned, moded := from("/src", "/owned"), from("/src", "/moded")
	owned.Owner, moded.Mode = &llb.Owner{Text: "3:4"}, "u=rwX,go="
	steps := []llb.Op{
		&llb.File{Actions: []llb.Action{&llb.Mkdir{Path: "/etc/deep", Mode: 0o750}, &llb.Mkfile{Path: "/etc/f", Mode: 0o600, Data: []byte("x"), Time: &epoch}}},
		&llb.File{Actions: []llb.Action{from("/", "/all/")}},
		&llb.File{Actions: []llb.Action{from("/src/a", "/etc"), owned}},
		&llb.File{Actions: []llb.Action{moded, from("/src", "/all/src")}},
		&llb.File{Actions: []llb.Action{from("/src", "/all/dir.is.gone"), from("/hard1", "/hard")}},
	}
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "src/a 644 = a", "src/sub/ 700", "src/sub/b 755 = b", "src/l -> a", "hard1 = h", "hard2 => hard1")
	local := llb.New(&llb.Local{Name: "context"}, nil, llb.Meta{})
	v := llb.New(&llb.Image{}, nil, llb.Meta{})
	var made, foreseen digest.Digest
	for i, op := range steps {
		inputs := []*llb.Vertex{v, local}
		if i == 0 {
			inputs = inputs[:1]
		}
		v = llb.New(op, inputs, llb.Meta{Label: "step"})
		var ok bool
		var err error
		if foreseen, ok, err = x.Foresee(t.Context(), v, []digest.Digest{foreseen, {}}[:len(inputs)]); err != nil || !ok {
			t.Fatalf("step %d: foreseen is %v, %v", i, ok, err)
		}
		if made, err = x.Execute(t.Context(), v, []digest.Digest{made, {}}[:len(inputs)]); err != nil {
			t.Fatal(err)
		}
		if a, b := content(t, x, foreseen), content(t, x, made); a != b {
			t.Errorf("step %d: content %s foreseen, %s made", i, a, b)
		}
	}
	linked := llb.New(&llb.Merge{}, []*llb.Vertex{v, v}, llb.Meta{})
	a, ok, err := x.Foresee(t.Context(), linked, []digest.Digest{foreseen, foreseen})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	b, err := x.Execute(t.Context(), linked, []digest.Digest{made, made})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := content(t, x, a), content(t, x, b); a != b {
		t.Errorf("a merge: content %s foreseen, %s made", a, b)
	}
	if ok, err := x.Layers.Usable(foreseen); ok || err != nil {
		t.Errorf("what is foreseen is no result, and usable is %v, %v", ok, err)
	}
}

func content(t *testing.T, x *Executor, result digest.Digest) digest.Digest {
	t.Helper()
	d, err := x.Layers.Content(result)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhatCannotBeForeseen(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "a = a")
	scratch := llb.New(&llb.Image{}, nil, llb.Meta{})
	for name, v := range map[string]*llb.Vertex{
		"a process":         llb.New(&llb.Exec{Args: []string{"true"}}, []*llb.Vertex{scratch}, llb.Meta{}),
		"an archive":        copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/a"}}, Dest: "/", Unpack: true}),
		"what is not there": copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/b"}}, Dest: "/"}),
	} {
		if _, ok, err := x.Foresee(t.Context(), v, make([]digest.Digest, len(v.Inputs()))); ok || err != nil {
			t.Errorf("%s: foreseen is %v, %v", name, ok, err)
		}
	}
}

// Selected gets what counts in the key: without what the step replaces, and with paths in the input.
func TestSelected(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "src/a 640 = a", "src/b 600 = b", "c = c")
	got := map[string]uint32{}
	calls := 0
	x.Selected = func(_ *llb.Vertex, input int, d digest.Digest, entries iter.Seq2[snapshot.Entry, error]) {
		calls++
		if input != 1 || d.IsZero() {
			t.Errorf("input %d, digest %s", input, d)
		}
		for e, err := range entries {
			if err != nil {
				t.Error(err)
			}
			got[e.Path] = e.Mode
		}
	}
	key(t, x, copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/src"}, {Path: "/c"}}, Dest: "/d/"}))
	if len(got) != 3 || got["src/a"] != 0o640 || got["src/b"] != 0o600 || calls != 1 {
		t.Errorf("%v in %d calls", got, calls)
	}
	clear(got)
	key(t, x, copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/src"}}, Dest: "/d/", Mode: "644"}))
	if len(got) != 2 || got["src/a"] != 0 {
		t.Errorf("with --chmod: %v", got)
	}
}

// Who lists what was selected hears when the build ends before all is told.
func TestSelectedSaysThatItIsNotAll(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "src/a = a", "src/b = b")
	ctx, cancel := context.WithCancel(t.Context())
	var told error
	x.Selected = func(_ *llb.Vertex, _ int, _ digest.Digest, entries iter.Seq2[snapshot.Entry, error]) {
		cancel()
		for _, err := range entries {
			told = err
		}
	}
	_, _ = x.Definition(ctx, copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/src"}}, Dest: "/d/"}), make([]cache.Key, 2))
	if !errors.Is(told, context.Canceled) {
		t.Errorf("it ended with %v", told)
	}
}
