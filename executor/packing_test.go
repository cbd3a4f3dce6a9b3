package executor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// The layers of images are those of the steps that they are made of, and not of what those read.
func TestPackingKnowsTheStepsOfImages(t *testing.T) {
	step := func(name string, op llb.Op, inputs ...*llb.Vertex) *llb.Vertex {
		return llb.New(op, inputs, llb.Meta{Label: name})
	}
	exec := func(name string, root *llb.Vertex) *llb.Vertex {
		return step(name, &llb.Exec{Args: []string{name}}, root)
	}
	copyFrom := func(name string, root, from *llb.Vertex) *llb.Vertex {
		return step(name, &llb.File{Actions: []llb.Action{&llb.Copy{From: 1, Dest: "/" + name}}}, root, from)
	}
	base := step("base", &llb.Image{})
	tools := exec("tools", exec("downloads", base))
	shared := exec("shared", base)
	linked := copyFrom("linked", step("scratch", &llb.Image{}), tools)
	mounts := step("mounts", &llb.Exec{Args: []string{"m"}, Mounts: []llb.Mount{{Type: llb.MountBind, From: 1, Target: "/m"}}}, copyFrom("copied", shared, tools), tools)
	last := step("last", &llb.Merge{}, mounts, linked)
	p := NewPacking(nil, []*llb.Vertex{last, shared})
	names := map[string]bool{}
	for _, v := range []*llb.Vertex{base, tools, tools.Inputs()[0], shared, linked, mounts, mounts.Inputs()[0], last} {
		if below, ok := p.steps[v.ID()]; ok {
			names[v.Meta().Label] = below
		}
	}
	p.Solved(tools, digest.Of(nil)) // compresses nothing: there is nobody who could
	want := map[string]bool{"base": true, "shared": true, "copied": true, "mounts": true, "linked": true, "last": false}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}
