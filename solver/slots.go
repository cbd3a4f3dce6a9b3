package solver

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// slots limit how many steps run at once. Of those that wait, the one with the longest way to the end of the build comes
// first: whatever else runs meanwhile, the build cannot end before it has gone that way.
type slots struct {
	mu      sync.Mutex
	free    int64
	waiting waiters
	arrived int // so far, for the order of those whose ways are equally long
}

// A waiter waits for a slot.
type waiter struct {
	way     time.Duration
	arrival int
	turn    chan struct{} // closed when the slot is the waiter's
	index   int           // in the heap; -1 when it is not there any more
}

// acquire takes a slot, or returns the cause that ended ctx. way is only called when there is none.
func (s *slots) acquire(ctx context.Context, way func() time.Duration) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	w := &waiter{way: way(), turn: make(chan struct{})} // without the lock: it may read files
	s.mu.Lock()
	if s.free > 0 { // meanwhile
		s.free--
		s.mu.Unlock()
		return nil
	}
	s.arrived++
	w.arrival = s.arrived
	heap.Push(&s.waiting, w)
	s.mu.Unlock()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	given := w.index < 0
	if !given {
		heap.Remove(&s.waiting, w.index)
	}
	s.mu.Unlock()
	if given { // at the same moment
		s.release()
	}
	return context.Cause(ctx)
}

// release gives a slot to the next that waits.
func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.free++
		return
	}
	close(heap.Pop(&s.waiting).(*waiter).turn)
}

// waiters is a heap, the next one on top.
type waiters []*waiter

func (h waiters) Len() int { return len(h) }
func (h waiters) Less(i, j int) bool {
	if h[i].way != h[j].way {
		return h[i].way > h[j].way
	}
	return h[i].arrival < h[j].arrival
}
func (h waiters) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}
func (h *waiters) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	*h = (*h)[:last]
	w.index = -1
	return w
}

// ways returns how long it takes from the start of each step below roots to the end of the build, when nothing has to wait.
func ways(roots []*llb.Vertex, expect func(*llb.Vertex) time.Duration) map[digest.Digest]time.Duration {
	var order []*llb.Vertex // inputs first
	seen := map[digest.Digest]bool{}
	var visit func(v *llb.Vertex)
	visit = func(v *llb.Vertex) {
		if seen[v.ID()] {
			return
		}
		seen[v.ID()] = true
		for _, in := range v.Inputs() {
			visit(in)
		}
		order = append(order, v)
	}
	for _, root := range roots {
		visit(root)
	}
	out := make(map[digest.Digest]time.Duration, len(order))
	for i := len(order) - 1; i >= 0; i-- {
		v := order[i]
		out[v.ID()] += expect(v) // behind it there was already the longest way of those that read it
		for _, in := range v.Inputs() {
			out[in.ID()] = max(out[in.ID()], out[v.ID()])
		}
	}
	return out
}
