package executor

import (
	"testing"
	"testing/synctest"
)

// Nobody waits for what is leaving but who asks, and that is for all that has begun to leave.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l leaving
		l.waitGone()
		var ends [3]chan struct{}
		for i := range ends {
			ends[i] = make(chan struct{})
			l.leave(func() { <-ends[i] })
		}
		waited := make(chan struct{})
		go func() {
			l.waitGone()
			close(waited)
		}()
		for i := len(ends) - 1; i >= 0; i-- {
			synctest.Wait()
			if closed(waited) {
				t.Fatalf("nobody waits for the one at %d", i)
			}
			close(ends[i])
		}
		<-waited
		if l.leave(func() {}); len(l.gone) != 1 {
			t.Errorf("%d are remembered", len(l.gone))
		}
	})
}
