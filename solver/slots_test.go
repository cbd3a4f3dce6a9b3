package solver_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// timed is a world whose steps take time.
type timed struct {
	*world
	takes map[string]time.Duration
}

func (w timed) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	select {
	case <-time.After(w.takes[v.Meta().Label]):
	case <-ctx.Done():
		return digest.Digest{}, context.Cause(ctx)
	}
	return w.world.Execute(ctx, v, inputs)
}

// wide returns many short steps and a long one behind a very short one, with how long they take.
func wide(w timed) *llb.Vertex {
	var steps []*llb.Vertex
	for i := range 12 {
		name := fmt.Sprint("short", i)
		w.takes[name] = time.Second
		steps = append(steps, run(name, scratch()))
	}
	w.takes["before"], w.takes["long"] = 100*time.Millisecond, 12*time.Second
	return run("top", scratch(), append(steps, run("long", run("before", scratch())))...)
}

// Two at a time, 24 seconds of work. The first two steps take the slots; of the others the one comes first that the long one
// waits for, at 1s, and the long one itself with the next slot that becomes free, at 2s.
func TestLongestWayFirst(t *testing.T) {
	took := func(known bool) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			w := timed{newWorld(), map[string]time.Duration{}}
			top := wide(w)
			s := w.solver()
			s.Executor, s.Jobs = w, 2
			if known {
				s.Expect = func(v *llb.Vertex) time.Duration { return w.takes[v.Meta().Label] }
			}
			begun := time.Now()
			if _, err := s.Solve(t.Context(), top); err != nil {
				t.Fatal(err)
			}
			d = time.Since(begun)
		})
		return d
	}
	if d := took(true); d > 14*time.Second {
		t.Errorf("took %v, want at most 14s", d)
	}
	t.Logf("%v with times, %v without", took(true), took(false))
}

// A step that gives up waiting leaves its place, and its slot to the next when that had just become free.
func TestWaitingForASlotEndsWithTheBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := timed{newWorld(), map[string]time.Duration{}}
		top := wide(w)
		s := w.solver()
		s.Executor, s.Jobs = w, 1
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		time.AfterFunc(1500*time.Millisecond, func() { cancel(enough) })
		if _, err := s.Solve(ctx, top); !errors.Is(err, enough) {
			t.Errorf("%v, want the cause of the end", err)
		}
	})
}
