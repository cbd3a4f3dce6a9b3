package solver

import (
	"context"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// An Action is what Solve would do with a vertex.
type Action string

// The actions.
const (
	// Source is that of a source whose content is known with the graph: it is neither run nor reused.
	Source Action = "source"
	Reuse  Action = "reuse"
	Run    Action = "run"
	// Depends is that of a step that is run unless the steps it waits for give what they gave in some earlier build. Nobody can
	// say that before they have run.
	Depends Action = "depends"
)

// A Decision is what Solve would do with a vertex, and by what.
type Decision struct {
	Vertex *llb.Vertex
	Action Action
	// Content is set for what is reused by its content key, though its definition is not known.
	Content bool
	// On are the inputs that a Depends waits for.
	On []*llb.Vertex
}

// A Foreseer tells the result of a step that must run without running it, where it can. The result is good for asking for the
// keys of other steps, and for nothing else.
type Foreseer interface {
	Foresee(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, bool, error)
}

// Plan returns what SolveAll would do now with vs and all that they are made from, inputs first. It runs nothing and records nothing,
// but finds out what lies elsewhere, as Solve does. Of two steps with one content key it cannot tell which of them will run.
func (s *Solver) Plan(ctx context.Context, vs []*llb.Vertex, f Foreseer) ([]Decision, error) {
	r, ctx, stop := s.start(ctx, vs...)
	defer stop()
	p := &planning{run: r, foreseer: f, made: map[digest.Digest]forecast{}, keys: map[cache.Key]forecast{}}
	var list []Decision
	listed := map[digest.Digest]bool{}
	for _, v := range vs {
		if _, err := p.plan(ctx, v); err != nil {
			return nil, err
		}
		p.list(v, listed, &list)
	}
	return list, nil
}

// A planning is one call of Plan.
type planning struct {
	*run
	foreseer Foreseer
	made     map[digest.Digest]forecast // by vertex
	keys     map[cache.Key]forecast     // of what will run, by content key
}

// A forecast is a decision with the result, when that is known.
type forecast struct {
	Decision
	result digest.Digest
	known  bool
}

func (p *planning) plan(ctx context.Context, v *llb.Vertex) (forecast, error) {
	if f, ok := p.made[v.ID()]; ok {
		return f, nil
	}
	f, err := p.decide(ctx, v)
	f.Vertex = v
	p.made[v.ID()] = f
	return f, step(v, err)
}

// decide mirrors solve and byContent.
func (p *planning) decide(ctx context.Context, v *llb.Vertex) (f forecast, err error) {
	if pinned(v) {
		f.Action, f.known = Source, true
		f.result, err = p.Executor.Execute(ctx, v, nil)
		return f, err
	}
	d, ok, err := p.known(ctx, v)
	if err != nil || ok {
		return forecast{Decision{Action: Reuse}, d, true}, err
	}
	inputs := make([]digest.Digest, len(v.Inputs()))
	for i, in := range v.Inputs() {
		g, err := p.plan(ctx, in)
		if err != nil {
			return f, err
		}
		inputs[i] = g.result
		if !g.known {
			f.On = append(f.On, in)
		}
	}
	switch {
	case v.Meta().NoCache && len(f.On) > 0:
		return forecast{Decision: Decision{Action: Run}}, nil
	case len(f.On) > 0:
		f.Action = Depends
		return f, nil
	}
	return p.byContentKey(ctx, v, inputs)
}

// byContentKey decides on a step whose inputs are known.
func (p *planning) byContentKey(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (f forecast, err error) {
	key, err := p.Executor.Content(ctx, v, inputs)
	if err != nil {
		return f, err
	}
	if !v.Meta().NoCache {
		d, ok, err := p.Memory.Lookup(ctx, key)
		if err != nil || ok {
			return forecast{Decision{Action: Reuse, Content: true}, d, true}, err
		}
		if same, ok := p.keys[key]; ok {
			return forecast{Decision{Action: Reuse, Content: true}, same.result, same.known}, nil
		}
	}
	f.Action = Run
	f.result, f.known, err = p.foreseer.Foresee(ctx, v, inputs)
	p.keys[key] = f
	return f, err
}

// list collects the decisions. What nobody asked for is only below what is reused.
func (p *planning) list(v *llb.Vertex, seen map[digest.Digest]bool, out *[]Decision) {
	if seen[v.ID()] {
		return
	}
	seen[v.ID()] = true
	for _, in := range v.Inputs() {
		p.list(in, seen, out)
	}
	f, ok := p.made[v.ID()]
	if !ok {
		f.Decision = Decision{Vertex: v, Action: Reuse}
		if pinned(v) {
			f.Action = Source
		}
	}
	*out = append(*out, f.Decision)
}
