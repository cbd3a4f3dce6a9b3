package solver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/solver"
)

// foresight tells the results of the steps that it names.
type foresight struct {
	*world
	names map[string]bool
}

func (f foresight) Foresee(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, bool, error) {
	k, err := f.Content(ctx, v, inputs)
	return digest.Digest(k), f.names[v.Meta().Label], err
}

func actions(t *testing.T, w *world, f foresight, top *llb.Vertex) map[string]solver.Decision {
	t.Helper()
	list, err := w.solver().Plan(t.Context(), []*llb.Vertex{top}, f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]solver.Decision{}
	for _, d := range list {
		out[d.Vertex.Meta().Label] = d
	}
	return out
}

func wantActions(t *testing.T, got map[string]solver.Decision, want map[string]solver.Action) {
	t.Helper()
	for name, a := range want {
		if got[name].Action != a {
			t.Errorf("%s: %s, want %s", name, got[name].Action, a)
		}
	}
}

func TestPlanRunsNothing(t *testing.T) {
	w := newWorld()
	low := run("low", scratch())
	top := run("top", run("a", low), run("b", low))
	none := foresight{w, nil}
	got := actions(t, w, none, top)
	wantActions(t, got, map[string]solver.Action{"scratch": solver.Source, "low": solver.Run, "a": solver.Depends, "b": solver.Depends, "top": solver.Depends})
	if on := got["a"].On; len(on) != 1 || on[0].Meta().Label != "low" {
		t.Errorf("a depends on %v", on)
	}
	if len(w.memory) != 0 || w.ran["low"] != 0 {
		t.Errorf("%d keys recorded, ran %v", len(w.memory), w.ran)
	}
	got = actions(t, w, foresight{w, map[string]bool{"low": true}}, top)
	wantActions(t, got, map[string]solver.Action{"low": solver.Run, "a": solver.Run, "b": solver.Run, "top": solver.Depends})
	if _, err := w.solver().Solve(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	got = actions(t, w, none, top)
	wantActions(t, got, map[string]solver.Action{"scratch": solver.Source, "low": solver.Reuse, "a": solver.Reuse, "top": solver.Reuse})
}

func TestPlanOfNoCache(t *testing.T) {
	w := newWorld()
	graph := func(no bool) *llb.Vertex {
		f := &llb.File{Actions: []llb.Action{&llb.Mkdir{Path: "/mid"}}}
		return run("top", llb.New(f, []*llb.Vertex{run("low", scratch())}, llb.Meta{Label: "mid", NoCache: no}))
	}
	if _, err := w.solver().Solve(t.Context(), graph(false)); err != nil {
		t.Fatal(err)
	}
	want := map[string]solver.Action{"low": solver.Reuse, "mid": solver.Run, "top": solver.Depends}
	wantActions(t, actions(t, w, foresight{w, nil}, graph(true)), want)
	want["top"] = solver.Reuse // since mid gives what it gave
	got := actions(t, w, foresight{w, map[string]bool{"mid": true}}, graph(true))
	wantActions(t, got, want)
	if !got["top"].Content {
		t.Error("top is reused by its content")
	}
}

// Of random graphs, built in part and then changed, Solve does what Plan has said: what it said will run has run, what
// it said is reused has not, and what depends has run only if something that it waits for gave another content.
func TestPlanAgreesWithSolve(t *testing.T) {
	dull := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := newWorld()
		f := foresight{w, map[string]bool{}}
		n := 2 + rng.IntN(25)
		for i := range n {
			f.names[fmt.Sprint("s", i)] = rng.IntN(2) == 0
		}
		shape := rng.Uint64()
		if _, err := w.solver().Solve(t.Context(), randomGraph(shape, n, nil)); err != nil {
			t.Fatal(err)
		}
		for k := range w.memory { // what some of it gave is lost
			if rng.IntN(8) == 0 {
				delete(w.memory, k)
			}
		}
		changed := map[int]bool{}
		for range rng.IntN(3) {
			changed[rng.IntN(n)] = true
		}
		top := randomGraph(shape, n, changed)
		w.collapse = map[string]bool{} // some steps give what they gave; not those that are foreseen
		for i := range changed {
			name := fmt.Sprint("s", i)
			w.collapse[name] = !f.names[name] && rng.IntN(2) == 0
		}
		plan := actions(t, w, f, top)
		w.ran = map[string]int{}
		if _, err := w.solver().Solve(t.Context(), top); err != nil {
			t.Fatal(err)
		}
		for name, d := range plan {
			switch ran := w.ran[name] > 0; {
			case d.Action == solver.Run && !ran, d.Action == solver.Reuse && ran:
				t.Errorf("seed %d: %s: planned %s, and ran is %v", seed, name, d.Action, ran)
			case d.Action == solver.Depends:
				dull++
				if !slices.ContainsFunc(d.On, func(in *llb.Vertex) bool {
					a := plan[in.Meta().Label].Action
					return a == solver.Run || a == solver.Depends
				}) {
					t.Errorf("seed %d: %s depends on nothing that may run", seed, name)
				}
			}
		}
	}
	if dull == 0 {
		t.Error("no step depended on another: the graphs are too simple")
	}
}

// randomGraph returns the graph of n steps that shape says, where the operations of some are changed.
func randomGraph(shape uint64, n int, changed map[int]bool) *llb.Vertex {
	rng := rand.New(rand.NewPCG(shape, 3))
	steps := []*llb.Vertex{scratch()}
	for i := range n {
		name := fmt.Sprint("s", i)
		inputs := []*llb.Vertex{steps[rng.IntN(len(steps))]}
		actions := []llb.Action{&llb.Mkdir{Path: "/" + name}}
		for range rng.IntN(3) {
			inputs = append(inputs, steps[rng.IntN(len(steps))])
			actions = append(actions, &llb.Copy{From: len(inputs) - 1, Dest: "/"})
		}
		if changed[i] {
			actions = append(actions, &llb.Mkdir{Path: "/changed"})
		}
		steps = append(steps, llb.New(&llb.File{Actions: actions}, inputs, llb.Meta{Label: name}))
	}
	return steps[n]
}
