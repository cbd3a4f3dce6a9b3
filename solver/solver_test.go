package solver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/solver"
)

// world is an executor whose steps are functions of nothing but their op and inputs, with a memory in RAM.
type world struct {
	mu       sync.Mutex
	memory   map[cache.Key]digest.Digest
	ran      map[string]int
	cached   map[string]int
	defined  map[string]int // how often it was asked for the definition
	fail     map[string]error
	block    map[string]chan struct{}
	entered  chan string
	running  atomic.Int64
	peak     atomic.Int64
	contents map[digest.Digest]digest.Digest // result -> content, when they differ
	collapse map[string]bool                 // labels of steps that give what one of that label gave before, whatever they are
	given    map[string]digest.Digest        // label -> content
}

func newWorld() *world {
	return &world{memory: map[cache.Key]digest.Digest{}, ran: map[string]int{}, cached: map[string]int{}, defined: map[string]int{}, fail: map[string]error{},
		block: map[string]chan struct{}{}, contents: map[digest.Digest]digest.Digest{}, given: map[string]digest.Digest{}}
}

func (w *world) solver() *solver.Solver {
	return &solver.Solver{Executor: w, Memory: w, Observer: w, Jobs: 4}
}

func (w *world) Definition(_ context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.defined[v.Meta().Label]++
	h := digest.NewHasher("definition")
	h.Digest("op", llb.OpDigest(v.Op()))
	for _, in := range inputs {
		h.Digest("in", digest.Digest(in))
	}
	return cache.Key(h.Sum()), nil
}

func (w *world) Content(_ context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := digest.NewHasher("content")
	h.Digest("op", llb.OpDigest(v.Op()))
	for _, in := range inputs {
		if c, ok := w.contents[in]; ok {
			in = c
		}
		h.Digest("in", in)
	}
	return cache.Key(h.Sum()), nil
}

func (w *world) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	name := v.Meta().Label
	n := w.running.Add(1)
	defer w.running.Add(-1)
	for {
		p := w.peak.Load()
		if n <= p || w.peak.CompareAndSwap(p, n) {
			break
		}
	}
	if w.entered != nil {
		w.entered <- name
	}
	w.mu.Lock()
	w.ran[name]++
	err, block := w.fail[name], w.block[name]
	w.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return digest.Digest{}, ctx.Err()
		}
	}
	k, _ := w.Content(ctx, v, inputs)
	w.mu.Lock()
	defer w.mu.Unlock()
	d := digest.Digest(k)
	if old, ok := w.given[name]; ok && w.collapse[name] && old != d {
		w.contents[d] = old
	} else {
		w.given[name] = d
	}
	return d, err
}

func (w *world) Lookup(_ context.Context, k cache.Key) (digest.Digest, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.memory[k]
	return d, ok, nil
}

func (w *world) Record(_ context.Context, k cache.Key, d digest.Digest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory[k] = d
	return nil
}

func (w *world) Lock(context.Context, string) (func(), error) { return func() {}, nil }

func (w *world) Started(*llb.Vertex)     {}
func (w *world) Done(*llb.Vertex, error) {}
func (w *world) Cached(v *llb.Vertex) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cached[v.Meta().Label]++
}

func scratch() *llb.Vertex { return llb.New(&llb.Image{}, nil, llb.Meta{Label: "scratch"}) }

// run is a step on root that also reads the others.
func run(name string, root *llb.Vertex, others ...*llb.Vertex) *llb.Vertex {
	f := &llb.File{Actions: []llb.Action{&llb.Mkdir{Path: "/" + name}}}
	for i := range others {
		f.Actions = append(f.Actions, &llb.Copy{From: i + 1, Dest: "/"})
	}
	return llb.New(f, append([]*llb.Vertex{root}, others...), llb.Meta{Label: name})
}

// A long chain whose steps read a folder too needs no goroutine for each step that waits for the one below it.
func TestLongChainTakesFewGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		folder := llb.New(&llb.Local{Name: "context"}, nil, llb.Meta{Label: "folder"})
		first := run("first", scratch(), folder)
		top := first
		for i := range 1000 {
			top = run(fmt.Sprint(i), top, folder)
		}
		proceed := make(chan struct{})
		w.block["first"] = proceed
		done := make(chan error)
		go func() {
			_, err := w.solver().Solve(t.Context(), top)
			done <- err
		}()
		synctest.Wait() // all wait for the first step
		if n := runtime.NumGoroutine(); n > 100 {
			t.Errorf("%d goroutines wait for one step", n)
		}
		close(proceed)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSharedStepRunsOnce(t *testing.T) {
	w := newWorld()
	shared := run("shared", scratch())
	top := run("top", run("a", shared), run("b", shared), run("c", shared))
	if _, err := w.solver().Solve(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	if w.ran["shared"] != 1 || w.ran["top"] != 1 {
		t.Errorf("ran %v, want each step once", w.ran)
	}
}

// What a step gave is told once, before a step that needs it can end, and also when it did not run.
func TestResultsAreTold(t *testing.T) {
	w := newWorld()
	last := run("last", run("middle", run("first", scratch())), run("other", scratch()))
	for _, want := range []int{5, 1} { // the second time only the last one is asked for
		told := map[string]digest.Digest{}
		var mu sync.Mutex
		s := w.solver()
		s.Solved = func(v *llb.Vertex, d digest.Digest) {
			mu.Lock()
			defer mu.Unlock()
			if name := v.Meta().Label; told[name] != (digest.Digest{}) || name == "last" && len(told) != want-1 {
				t.Errorf("%s after %v", name, told)
			}
			told[v.Meta().Label] = d
		}
		d, err := s.Solve(t.Context(), last)
		if err != nil || len(told) != want || told["last"] != d {
			t.Errorf("%v, %v", told, err)
		}
	}
}

func TestIndependentStepsRunAtOnce(t *testing.T) {
	w := newWorld()
	w.entered = make(chan string)
	gate := make(chan struct{})
	w.block["a"], w.block["b"] = gate, gate
	top := run("top", run("a", scratch()), run("b", scratch()))
	done := make(chan error)
	go func() { _, err := w.solver().Solve(t.Context(), top); done <- err }()
	for seen := map[string]bool{}; !seen["a"] || !seen["b"]; { // both are inside before either may end
		seen[<-w.entered] = true
	}
	close(gate)
	for open := true; open; {
		select {
		case <-w.entered:
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			open = false
		}
	}
}

func TestJobsLimitsRunningSteps(t *testing.T) {
	w := newWorld()
	var steps []*llb.Vertex
	base := run("base", scratch())
	for i := range 50 {
		steps = append(steps, run(fmt.Sprint("s", i), base))
	}
	s := w.solver()
	s.Jobs = 3
	if _, err := s.Solve(t.Context(), run("top", base, steps...)); err != nil {
		t.Fatal(err)
	}
	if w.peak.Load() > 3 {
		t.Errorf("%d steps ran at once, want at most 3", w.peak.Load())
	}
}

func TestFirstFailureIsReported(t *testing.T) {
	w := newWorld()
	boom := errors.New("boom")
	w.fail["bad"] = boom
	w.block["slow"] = make(chan struct{}) // ends only by being cancelled
	top := run("top", run("slow", scratch()), run("bad", scratch()))
	_, err := w.solver().Solve(t.Context(), top)
	var step *solver.StepError
	if !errors.As(err, &step) || step.Vertex.Meta().Label != "bad" || !errors.Is(err, boom) {
		t.Errorf("error %v, want that of the step that failed", err)
	}
	if w.ran["top"] != 0 {
		t.Error("a step ran after its input failed")
	}
}

func TestCancelEndsTheBuild(t *testing.T) {
	w := newWorld()
	w.block["slow"] = make(chan struct{})
	w.entered = make(chan string, 10)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	done := make(chan error)
	go func() { _, err := w.solver().Solve(ctx, run("top", run("slow", scratch()))); done <- err }()
	for <-w.entered != "slow" {
	}
	cancel(interrupted)
	if err := <-done; !errors.Is(err, interrupted) {
		t.Errorf("error %v, want the cause of the cancellation", err)
	}
}

func TestKnownLastStepAsksForNothingElse(t *testing.T) {
	w := newWorld()
	top := run("top", run("mid", run("low", scratch())))
	if _, err := w.solver().Solve(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	w.ran, w.defined = map[string]int{}, map[string]int{}
	s := w.solver()
	d, ok, err := s.Known(t.Context(), top)
	if err != nil || !ok || d.IsZero() {
		t.Fatalf("Known = %v %v %v", d, ok, err)
	}
	got, err := s.Solve(t.Context(), top)
	if err != nil || got != d {
		t.Fatal(got, err)
	}
	if len(w.ran) != 0 {
		t.Errorf("ran %v, want nothing: not even the source", w.ran)
	}
	for _, name := range []string{"top", "mid", "low"} {
		if w.cached[name] != 1 {
			t.Errorf("%s reported as cached %d times, want once", name, w.cached[name])
		}
		if w.defined[name] != 1 {
			t.Errorf("asked for the definition of %s %d times, want once: it may be all files of a folder", name, w.defined[name])
		}
	}
}

func TestContentRescuesAnotherDefinition(t *testing.T) {
	w := newWorld()
	if _, err := w.solver().Solve(t.Context(), run("top", run("v1", scratch()))); err != nil {
		t.Fatal(err)
	}
	// v2 is another step with the same outcome.
	v1, v2 := run("v1", scratch()), run("v2", scratch())
	k1, _ := w.Content(t.Context(), v1, []digest.Digest{contentOf(w, scratch())})
	k2, _ := w.Content(t.Context(), v2, []digest.Digest{contentOf(w, scratch())})
	w.contents[digest.Digest(k2)] = digest.Digest(k1)
	w.ran = map[string]int{}
	if _, err := w.solver().Solve(t.Context(), run("top", v2)); err != nil {
		t.Fatal(err)
	}
	if w.ran["v2"] != 1 || w.ran["top"] != 0 {
		t.Errorf("ran %v, want v2 only", w.ran)
	}
}

func contentOf(w *world, v *llb.Vertex) digest.Digest {
	k, _ := w.Content(context.Background(), v, nil)
	return digest.Digest(k)
}

func TestNoCacheRunsTheStepAndWhatComesOfIt(t *testing.T) {
	w := newWorld()
	graph := func(no bool) *llb.Vertex {
		low := run("low", scratch())
		f := &llb.File{Actions: []llb.Action{&llb.Mkdir{Path: "/mid"}}}
		mid := llb.New(f, []*llb.Vertex{low}, llb.Meta{Label: "mid", NoCache: no})
		return run("top", mid)
	}
	if _, err := w.solver().Solve(t.Context(), graph(false)); err != nil {
		t.Fatal(err)
	}
	w.ran = map[string]int{}
	if _, err := w.solver().Solve(t.Context(), graph(true)); err != nil {
		t.Fatal(err)
	}
	if w.ran["mid"] != 1 || w.ran["low"] != 0 {
		t.Errorf("ran %v, want mid and not low", w.ran)
	}
	if w.ran["top"] != 0 {
		t.Error("top ran although mid gave the same content again")
	}
}

// Random graphs with random failures: no wedge, each step at most once, and the result or the failure is right.
func TestRandomGraphs(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld()
		steps := []*llb.Vertex{scratch()}
		for i := range 1 + rng.IntN(40) {
			root := steps[rng.IntN(len(steps))]
			var others []*llb.Vertex
			for range rng.IntN(4) {
				others = append(others, steps[rng.IntN(len(steps))])
			}
			name := fmt.Sprint("s", i)
			if rng.IntN(30) == 0 {
				w.fail[name] = errors.New(name + " failed")
			}
			steps = append(steps, run(name, root, others...))
		}
		s := w.solver()
		s.Jobs = int64(1 + rng.IntN(3))
		_, err := s.Solve(t.Context(), steps[len(steps)-1])
		var step *solver.StepError
		switch {
		case err == nil:
			for name := range w.fail {
				if w.ran[name] > 0 {
					t.Errorf("seed %d: %s failed and the build did not", seed, name)
				}
			}
		case !errors.As(err, &step) || w.fail[step.Vertex.Meta().Label] == nil:
			t.Errorf("seed %d: %v is not the failure of a step", seed, err)
		}
		for name, n := range w.ran {
			if n != 1 {
				t.Errorf("seed %d: %s ran %d times", seed, name, n)
			}
		}
	}
}

func BenchmarkWideGraph(b *testing.B) {
	var steps []*llb.Vertex
	for i := range 1000 {
		steps = append(steps, run(fmt.Sprint("s", i), scratch()))
	}
	top := run("top", scratch(), steps...)
	for b.Loop() {
		if _, err := newWorld().solver().Solve(b.Context(), top); err != nil {
			b.Fatal(err)
		}
	}
}
