package executor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// A step is followed by the nearest process that needs it, also through a mount or a copy, and the last one by none.
func TestFollowers(t *testing.T) {
	labels := map[digest.Digest]string{}
	step := func(name string, op llb.Op, inputs ...*llb.Vertex) *llb.Vertex {
		v := llb.New(op, inputs, llb.Meta{Label: name})
		labels[v.ID()] = name
		return v
	}
	exec := func(name string, inputs ...*llb.Vertex) *llb.Vertex {
		return step(name, &llb.Exec{Args: []string{name}}, inputs...)
	}
	copied := func(name string, inputs ...*llb.Vertex) *llb.Vertex {
		return step(name, &llb.File{Actions: []llb.Action{&llb.Copy{From: 1, Dest: "/" + name}}}, inputs...)
	}
	base := step("base", &llb.Image{})
	tool := exec("tool", base)
	image := copied("image", exec("second", copied("first copy", exec("first", base), tool)), tool)
	other := copied("other target", base, exec("alone", base))
	got := map[string]string{}
	for id, op := range followers([]*llb.Vertex{image, other}) {
		if op != nil {
			got[labels[id]] = op.Args[0]
		}
	}
	want := map[string]string{"base": "first", "first": "second", "first copy": "second", "tool": "second"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A shared step that one target only reads for its files is still followed by the process of the other.
func TestFollowersOfSeveralTargets(t *testing.T) {
	shared := llb.New(&llb.Exec{Args: []string{"shared"}}, []*llb.Vertex{llb.New(&llb.Image{}, nil, llb.Meta{})}, llb.Meta{})
	last := llb.New(&llb.Exec{Args: []string{"last"}}, []*llb.Vertex{shared}, llb.Meta{})
	if op := followers([]*llb.Vertex{shared, last})[shared.ID()]; op != last.Op() {
		t.Errorf("shared is followed by %v", op)
	}
}

// While files are copied, the sandbox of the process that follows is prepared: once, and not after the last one.
func TestCopyPreparesWhatFollows(t *testing.T) {
	x := newExecutor(t)
	defer x.Close()
	x.folder(t, t.TempDir(), "a = 1")
	copied := copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/a"}}, Dest: "/"})
	next := llb.New(&llb.Exec{Args: []string{"next"}, Network: llb.NetworkNone}, []*llb.Vertex{copied}, llb.Meta{})
	x.Targets = []*llb.Vertex{next}
	if _, err := x.Execute(t.Context(), copied, make([]digest.Digest, 2)); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.prepared.Load(next.Op()); !ok {
		t.Error("nothing is prepared")
	}
}
