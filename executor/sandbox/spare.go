package sandbox

import (
	"runtime"
	"slices"
	"sync"
)

// spares are stages that were made before anybody asked for them.
type spares struct {
	waiting []*spare
	threads sync.WaitGroup
}

// A spare is a stage in the making, or made, that waits on its thread for a plan.
type spare struct {
	space Space
	plan  chan func(*stage) // closed when there will be none
	none  chan struct{}     // closed when no stage could be made
}

// Prepare begins to make, beside whatever runs, what the next sandbox with that Space will need, and Start takes it. It is for a
// caller who knows that there will be one: what no Start takes waits for Close. No more wait than there are processors to use them.
func (r *Runner) Prepare(space Space) {
	s := &spare{space, make(chan func(*stage)), make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.spares.waiting) >= runtime.GOMAXPROCS(0) {
		return
	}
	r.spares.waiting = append(r.spares.waiting, s)
	r.spares.threads.Add(1)
	onThread(func() {
		ended := sync.OnceFunc(r.spares.threads.Done)
		defer ended()
		st, err := r.newStage(space)
		if err != nil { // Start will find the same, and tell
			close(s.none)
			return
		}
		if f, ok := <-s.plan; ok {
			ended() // from here on it is as good as one that was made by Start
			f(st)
			return
		}
		st.close()
		st.end()
		r.release(st.network)
	})
}

// newStage makes this thread a stage with a network of this Runner.
func (r *Runner) newStage(space Space) (*stage, error) {
	n := r.newNetwork(space.Network)
	st, err := newStage(space, n)
	if err != nil {
		r.release(n)
	}
	return st, err
}

// onStage runs f on a thread that is a stage for spec, or that of a chroot, or with the error that has prevented it.
func (r *Runner) onStage(spec *Spec, f func(*stage, error)) {
	if spec.Chroot {
		onThread(func() { f(nil, nil) })
		return
	}
	space := spec.Space()
	if s := r.takeSpare(space); s != nil {
		select {
		case s.plan <- func(st *stage) { f(st, nil) }:
			return
		case <-s.none:
		}
	}
	onThread(func() { f(r.newStage(space)) })
}

// takeSpare returns a spare for nobody else to take, or nil. The oldest is the one that is ready first.
func (r *Runner) takeSpare(space Space) *spare {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.spares.waiting, func(s *spare) bool { return s.space == space })
	if i < 0 {
		return nil
	}
	s := r.spares.waiting[i]
	r.spares.waiting = slices.Delete(r.spares.waiting, i, i+1)
	return s
}

// endSpares ends those that nobody has taken, and waits for it.
func (r *Runner) endSpares() {
	r.mu.Lock()
	waiting := r.spares.waiting
	r.spares.waiting = nil
	r.mu.Unlock()
	for _, s := range waiting {
		close(s.plan)
	}
	r.spares.threads.Wait()
}
