// Package solver owns order, parallelism and the decision to run a step or to
// reuse what it gave before. It does not know what an operation does, what a
// root file system is, or that containers exist.
package solver

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// An Executor knows what operations mean.
type Executor interface {
	// Definition returns the key of v by its operation and the definitions of its inputs. It
	// runs nothing and needs no result, so that a build whose last step is known asks for nothing else.
	Definition(ctx context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error)
	// Content returns the key of v by its operation and what it reads of its inputs' results. Equal
	// content means an equal result, however the inputs came to be. It runs nothing.
	Content(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error)
	// Execute runs v and returns its result.
	Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error)
}

// A Memory remembers results of earlier builds, of this process or another.
type Memory interface {
	// Lookup returns the result for key. One that cannot be used any more is a miss.
	Lookup(ctx context.Context, key cache.Key) (digest.Digest, bool, error)
	Record(ctx context.Context, key cache.Key, result digest.Digest) error
	// Lock keeps other processes from working on what name stands for, until unlock.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// A Solver solves graphs.
type Solver struct {
	Executor Executor
	Memory   Memory
	Observer Observer
	// Solved, when not nil, is told the result of each step as soon as it is known, whether it ran or not. It must not wait for anything.
	Solved func(v *llb.Vertex, result digest.Digest)
	// Jobs is how many steps run at once; it is at least 1.
	Jobs int64
	// Expect, when not nil, says how long a step will run, by earlier builds; 0 is not known. It decides which steps come first
	// when there are more than Jobs, and is only asked then.
	Expect func(v *llb.Vertex) time.Duration

	definitions map[digest.Digest]*call[cache.Key] // what Known has found out
}

// A StepError says which step failed: by its place in the Dockerfile, or by its
// name when it has none.
type StepError struct {
	Vertex *llb.Vertex
	Err    error
}

func (e *StepError) Error() string {
	meta := e.Vertex.Meta()
	if meta.Pos.IsZero() {
		return fmt.Sprintf("%s: %v", meta.Label, e.Err)
	}
	return fmt.Sprintf("%s: %v", meta.Pos, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// Solve returns the result of v. Independent steps run at the same time, a step
// that several others read runs once, and the first failure stops the rest and is the error.
func (s *Solver) Solve(ctx context.Context, v *llb.Vertex) (digest.Digest, error) {
	results, err := s.SolveAll(ctx, []*llb.Vertex{v})
	return results[0], err
}

// SolveAll returns the results of vs as Solve does, for graphs that may have steps in common.
func (s *Solver) SolveAll(ctx context.Context, vs []*llb.Vertex) ([]digest.Digest, error) {
	r, ctx, stop := s.start(ctx, vs...)
	defer stop()
	results, err := all(ctx, vs, r.solve)
	if err != nil {
		// Whatever ended after the first failure ended because of it.
		err = context.Cause(ctx)
	}
	return results, err
}

// Known returns the result of v when it is remembered by its definition: then Solve will run nothing. Later calls do not ask the
// Executor again for the definitions that it took to know; none may be under way at the same time.
func (s *Solver) Known(ctx context.Context, v *llb.Vertex) (digest.Digest, bool, error) {
	r, ctx, stop := s.start(ctx, v)
	defer stop()
	d, ok, err := r.known(ctx, v)
	if err == nil {
		s.definitions = r.definitions
	}
	return d, ok, err
}

func (s *Solver) start(ctx context.Context, roots ...*llb.Vertex) (*run, context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &run{
		Solver: s, fail: cancel, slots: &slots{free: s.Jobs},
		definitions: s.definitions,
		results:     map[digest.Digest]*call[digest.Digest]{},
		fresh:       map[digest.Digest]bool{},
		seen:        map[digest.Digest]bool{},
	}
	if r.definitions == nil {
		r.definitions = map[digest.Digest]*call[cache.Key]{}
	}
	r.ways = sync.OnceValue(func() map[digest.Digest]time.Duration {
		if s.Expect == nil {
			return nil
		}
		return ways(roots, s.Expect)
	})
	return r, ctx, func() { cancel(nil) }
}

// A run is one call of Solve.
type run struct {
	*Solver
	fail  context.CancelCauseFunc
	slots *slots
	ways  func() map[digest.Digest]time.Duration // from each step to the end of the build

	mu          sync.Mutex
	definitions map[digest.Digest]*call[cache.Key]
	results     map[digest.Digest]*call[digest.Digest]
	fresh       map[digest.Digest]bool
	seen        map[digest.Digest]bool // reported to the observer
}

// A call is work that is done once for all who ask.
type call[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// once runs f for id unless it was run before, and returns what it gave. Whoever comes
// while f runs waits; nobody waits for himself, since a graph has no circles.
func once[T any](r *run, calls map[digest.Digest]*call[T], id digest.Digest, f func() (T, error)) (T, error) {
	r.mu.Lock()
	c, ok := calls[id]
	if !ok {
		c = &call[T]{done: make(chan struct{})}
		calls[id] = c
	}
	r.mu.Unlock()
	if ok {
		<-c.done
		return c.value, c.err
	}
	defer close(c.done)
	c.value, c.err = f()
	if c.err != nil {
		r.fail(c.err)
	}
	return c.value, c.err
}

// definition returns the definition key of v.
func (r *run) definition(ctx context.Context, v *llb.Vertex) (cache.Key, error) {
	return once(r, r.definitions, v.ID(), func() (cache.Key, error) {
		inputs, err := all(ctx, v.Inputs(), r.definition)
		if err != nil {
			return cache.Key{}, err
		}
		key, err := r.Executor.Definition(ctx, v, inputs)
		return key, step(v, err)
	})
}

// all calls f for every vertex at once: for the first one in this goroutine, since steps are mostly chains of first inputs, and
// thousands of goroutines that wait for each other take more memory than one with a deep stack.
func all[T any](ctx context.Context, vs []*llb.Vertex, f func(context.Context, *llb.Vertex) (T, error)) ([]T, error) {
	out := make([]T, len(vs))
	if len(vs) == 0 {
		return out, nil
	}
	var others errgroup.Group
	for i, v := range vs[1:] {
		others.Go(func() (err error) {
			out[1+i], err = f(ctx, v)
			return err
		})
	}
	var err error
	out[0], err = f(ctx, vs[0])
	return out, cmp.Or(err, others.Wait())
}

// step names the vertex in its error.
func step(v *llb.Vertex, err error) error {
	if err == nil {
		return nil
	}
	return &StepError{v, err}
}

// mustRun reports whether v or something it is made from must not be taken from memory: then
// only equal content, not an equal definition, makes a result usable.
func (r *run) mustRun(v *llb.Vertex) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mustRunLocked(v)
}

func (r *run) mustRunLocked(v *llb.Vertex) bool {
	if f, ok := r.fresh[v.ID()]; ok {
		return f
	}
	f := v.Meta().NoCache
	for _, in := range v.Inputs() {
		f = r.mustRunLocked(in) || f
	}
	r.fresh[v.ID()] = f
	return f
}

// pinned reports whether v is a source whose content was known when the graph was made: there is nothing to remember.
func pinned(v *llb.Vertex) bool { return len(v.Inputs()) == 0 && !v.Remote() }

func (r *run) known(ctx context.Context, v *llb.Vertex) (digest.Digest, bool, error) {
	if r.mustRun(v) || pinned(v) {
		return digest.Digest{}, false, nil
	}
	def, err := r.definition(ctx, v)
	if err != nil {
		return digest.Digest{}, false, err
	}
	d, ok, err := r.Memory.Lookup(ctx, def)
	return d, ok, step(v, err)
}

func (r *run) solve(ctx context.Context, v *llb.Vertex) (digest.Digest, error) {
	return once(r, r.results, v.ID(), func() (digest.Digest, error) {
		d, err := r.result(ctx, v)
		if err == nil && r.Solved != nil {
			r.Solved(v, d)
		}
		return d, err
	})
}

// result finds the result of v, or makes it.
func (r *run) result(ctx context.Context, v *llb.Vertex) (digest.Digest, error) {
	if pinned(v) {
		return r.execute(ctx, v, nil)
	}
	d, ok, err := r.known(ctx, v)
	if err != nil {
		return d, err
	}
	if ok {
		r.cached(v)
		return d, nil
	}
	inputs, err := all(ctx, v.Inputs(), r.solve)
	if err != nil {
		return digest.Digest{}, err // names the step that failed
	}
	d, err = r.byContent(ctx, v, inputs)
	return d, step(v, err)
}

// byContent returns the result of v for these inputs, from memory or by running it.
func (r *run) byContent(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	key, err := r.Executor.Content(ctx, v, inputs)
	if err != nil {
		return digest.Digest{}, err
	}
	if d, ok, err := r.recall(ctx, v, key); err != nil || ok {
		return d, err
	}
	// The lock comes before the slot: who holds a slot waits for nobody who waits for one.
	unlock, err := r.Memory.Lock(ctx, "step/"+key.String())
	if err != nil {
		return digest.Digest{}, err
	}
	defer unlock()
	if d, ok, err := r.recall(ctx, v, key); err != nil || ok { // another process ran it meanwhile
		return d, err
	}
	d, err := r.execute(ctx, v, inputs)
	if err != nil {
		return d, err
	}
	return d, r.record(ctx, v, key, d)
}

func (r *run) recall(ctx context.Context, v *llb.Vertex, key cache.Key) (digest.Digest, bool, error) {
	if v.Meta().NoCache {
		return digest.Digest{}, false, nil
	}
	d, ok, err := r.Memory.Lookup(ctx, key)
	if err != nil || !ok {
		return d, false, err
	}
	r.cached(v)
	return d, true, r.record(ctx, v, key, d)
}

// record remembers d by content and by definition.
func (r *run) record(ctx context.Context, v *llb.Vertex, key cache.Key, d digest.Digest) error {
	if err := r.Memory.Record(ctx, key, d); err != nil {
		return err
	}
	def, err := r.definition(ctx, v)
	if err != nil {
		return err
	}
	return r.Memory.Record(ctx, def, d)
}

func (r *run) execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	if !pinned(v) {
		// Only now: a step that waits for its inputs must not hold a slot.
		if err := r.slots.acquire(ctx, func() time.Duration { return r.ways()[v.ID()] }); err != nil {
			return digest.Digest{}, err
		}
		defer r.slots.release()
	}
	if err := context.Cause(ctx); err != nil {
		return digest.Digest{}, err
	}
	started := r.report(v, r.Observer.Started)
	d, err := r.Executor.Execute(ctx, v, inputs)
	if started {
		shown := err
		if err != nil && context.Cause(ctx) != nil {
			shown = context.Canceled // another step's failure ended this one
		}
		r.Observer.Done(v, shown)
	}
	if pinned(v) {
		err = step(v, err)
	}
	return d, err
}

// cached tells the observer that v, and what it was made from, need not run.
func (r *run) cached(v *llb.Vertex) {
	for _, in := range v.Inputs() {
		r.mu.Lock()
		seen := r.seen[in.ID()]
		r.mu.Unlock()
		if !seen {
			r.cached(in)
		}
	}
	r.report(v, r.Observer.Cached)
}

// report tells the observer of v, unless it was told before.
func (r *run) report(v *llb.Vertex, f func(*llb.Vertex)) bool {
	r.mu.Lock()
	seen := r.seen[v.ID()]
	r.seen[v.ID()] = true
	r.mu.Unlock()
	if !seen {
		f(v)
	}
	return !seen
}
