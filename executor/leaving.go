package executor

import (
	"slices"
	"sync"
)

// leaving is what is left of processes that have ended. What they made is captured by then, so the steps that follow need not wait
// while the kernel takes their mounts apart. But a process does: its root may be put together from a tree that is the upper
// one of an overlay until that is gone, and the network of the last process can be its own.
type leaving struct {
	mu   sync.Mutex
	gone []chan struct{} // each closed when one has gone
}

// leave runs f beside what follows.
func (l *leaving) leave(f func()) {
	done := make(chan struct{})
	l.mu.Lock()
	l.gone = append(slices.DeleteFunc(l.gone, closed), done)
	l.mu.Unlock()
	go func() {
		defer close(done)
		f()
	}()
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// waitGone waits until nothing is left of the processes that have ended so far.
func (l *leaving) waitGone() {
	l.mu.Lock()
	gone := slices.Clone(l.gone)
	l.mu.Unlock()
	for _, c := range gone {
		<-c
	}
}
