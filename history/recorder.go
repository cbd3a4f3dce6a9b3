package history

import (
	"context"
	"crypto/rand"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/solver"
)

// A Recorder listens to a build: it stands between the solver and its executor and observer. It implements both, and is safe for
// concurrent use.
type Recorder struct {
	// Executor and Observer do the work.
	Executor solver.Executor
	Observer solver.Observer
	// Because, when not nil, is told the cause of each step that starts.
	Because func(v *llb.Vertex, c Cause)
	// Evicted is that of Comparison.
	Evicted func(definition, content digest.Digest) (string, bool)

	log     *Log
	build   Build
	started time.Time

	mu       sync.Mutex
	graph    *Graph
	place    map[digest.Digest]int // vertex -> step
	contents map[int]digest.Digest
	reads    map[int][]Selection // from inputs that are no folders
	outcomes map[int]*Outcome    // of what has run
	seen     map[int]bool        // reused
	sources  map[int]Cause       // of those that changed
	compare  *Comparison         // made for the first step that runs
	failed   error               // to keep a list of files
}

// Record returns a Recorder for a build of roots.
func (l *Log) Record(s Subject, roots []*llb.Vertex, noCache bool, argument Namer) *Recorder {
	now := time.Now()
	r := &Recorder{
		log: l, started: now, build: Build{ID: strings.ToLower(rand.Text()[:8]), Began: now.UTC(), Subject: s},
		graph: NewGraph(roots, argument), place: map[digest.Digest]int{},
		contents: map[int]digest.Digest{}, reads: map[int][]Selection{}, outcomes: map[int]*Outcome{}, seen: map[int]bool{}, sources: map[int]Cause{},
	}
	r.graph.NoCache = noCache
	for i := range r.graph.Steps {
		r.place[r.graph.Steps[i].ID] = i
	}
	return r
}

// Definition implements solver.Executor.
func (r *Recorder) Definition(ctx context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error) {
	key, err := r.Executor.Definition(ctx, v, inputs)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s := &r.graph.Steps[r.place[v.ID()]]; !s.Source() || s.Kind == KindImage {
			s.Definition = digest.Digest(key)
		}
	}
	return key, err
}

// Content implements solver.Executor.
func (r *Recorder) Content(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error) {
	key, err := r.Executor.Content(ctx, v, inputs)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.contents[r.place[v.ID()]] = digest.Digest(key)
	}
	return key, err
}

// Execute implements solver.Executor.
func (r *Recorder) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	r.mu.Lock()
	i := r.place[v.ID()]
	s := &r.graph.Steps[i]
	source := s.Source()
	if !source {
		r.outcomes[i] = &Outcome{Step: i, Status: Canceled, Took: 1, Cause: r.comparison().Cause(i)}
	}
	r.mu.Unlock()
	begun := time.Now()
	d, err := r.Executor.Execute(ctx, v, inputs)
	if !source {
		r.mu.Lock()
		defer r.mu.Unlock()
		o := r.outcomes[i]
		o.Took = max(time.Since(begun), 1)
		switch {
		case err == nil:
			o.Status = Done
		case context.Cause(ctx) == nil:
			o.Status = Failed
		}
	}
	return d, err
}

// Use keeps what the process of v, which is being executed, has used.
func (r *Recorder) Use(v *llb.Vertex, u Usage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i, ok := r.place[v.ID()]; ok && r.outcomes[i] != nil {
		r.outcomes[i].Usage = &u
	}
}

// Selected keeps what v reads of an input, whose digest in its keys is d.
func (r *Recorder) Selected(v *llb.Vertex, input int, d digest.Digest, entries iter.Seq2[snapshot.Entry, error]) {
	err := r.log.AddFiles(d, entries)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = err
		return
	}
	i, ok := r.place[v.ID()]
	if !ok {
		return // the context of a build is read before the graph is known
	}
	s := &r.graph.Steps[i]
	if r.graph.Steps[s.Inputs[input]].Kind == KindLocal {
		s.Files = withSelection(s.Files, Selection{input, d})
	} else {
		r.reads[i] = withSelection(r.reads[i], Selection{input, d})
	}
}

// withSelection returns the list, ordered by input, with x in it.
func withSelection(list []Selection, x Selection) []Selection {
	for i, s := range list {
		if s.Input == x.Input {
			list[i] = x
			return list
		}
		if s.Input > x.Input {
			return append(list[:i:i], append([]Selection{x}, list[i:]...)...)
		}
	}
	return append(list, x)
}

// comparison returns that with the build before. The Recorder is locked.
func (r *Recorder) comparison() *Comparison {
	if r.compare != nil {
		return r.compare
	}
	if r.graph.vertices != nil {
		r.graph.describe()
	}
	before, err := r.log.Before(r.build.Subject, nil)
	if err != nil {
		r.failed = err
	}
	r.compare = &Comparison{
		Log: r.log, Now: r.graph, Old: r.log.Graph(before), Before: before, Evicted: r.Evicted,
		Rerun:     func(step int) bool { return r.outcomes[step] != nil },
		selecting: func(step int) []Selection { return r.reads[step] },
	}
	return r.compare
}

// Cached implements solver.Observer.
func (r *Recorder) Cached(v *llb.Vertex) {
	r.mu.Lock()
	r.seen[r.place[v.ID()]] = true
	r.mu.Unlock()
	r.Observer.Cached(v)
}

// Started implements solver.Observer.
func (r *Recorder) Started(v *llb.Vertex) {
	r.Observer.Started(v)
	r.mu.Lock()
	i := r.place[v.ID()]
	var c Cause
	switch s := &r.graph.Steps[i]; {
	case s.Kind == KindLocal: // what is in it is told of the steps that read it
	case s.Source():
		if c = r.comparison().Difference(i); c.Text != "" {
			r.sources[i] = c
		}
	default:
		c = r.comparison().Cause(i)
	}
	r.mu.Unlock()
	if c.Text != "" && r.Because != nil {
		r.Because(v, c)
	}
}

// Done implements solver.Observer.
func (r *Recorder) Done(v *llb.Vertex, err error) { r.Observer.Done(v, err) }

// Step returns the place of v in the graph.
func (r *Recorder) Step(v *llb.Vertex) int { return r.place[v.ID()] }

// Comparison returns that with the build before.
func (r *Recorder) Comparison() *Comparison {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.comparison()
}

// Expect returns how long a step will run, by what is known of it or of the step that it was; 0 is not known. It is that
// of solver.Solver.
func (r *Recorder) Expect(v *llb.Vertex) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.comparison().Expect(r.place[v.ID()])
}

// Close keeps the record of the build, which has ended as status says, and returns it.
func (r *Recorder) Close(status Status) (*Build, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.build
	b.Status, b.Took = status, time.Since(r.started)
	if r.compare != nil && r.compare.Before != nil {
		b.Before = r.compare.Before.ID
	}
	var err error
	for i := range r.graph.Steps {
		s := &r.graph.Steps[i]
		if c, ok := r.sources[i]; ok {
			b.Steps = append(b.Steps, Outcome{Step: i, Status: Done, Cause: c})
		}
		if s.Source() {
			continue
		}
		o, content := r.outcomes[i], r.contents[i]
		switch {
		case o == nil && r.seen[i] && content.IsZero():
			b.Reused++
			continue
		case o == nil && r.seen[i]:
			o = &Outcome{Step: i, Content: true, Status: Done}
			b.Reused++
		case o == nil: // the build ended before
			o = &Outcome{Step: i, Status: Canceled}
		}
		b.Steps = append(b.Steps, *o)
		if o.Status == Done && !s.Definition.IsZero() {
			f := Facts{content, o.Took, r.reads[i]}
			if o.Content {
				known, _ := r.log.Facts(s.Definition)
				f.Took = known.Took
			}
			if e := r.log.write(fileOf("steps", s.Definition), f); e != nil {
				err = e
			}
		}
	}
	if err == nil {
		err = r.failed
	}
	if e := r.log.Save(b, r.graph); e != nil {
		err = e
	}
	return b, err
}
