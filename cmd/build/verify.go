package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/solver"
)

// setDebug reads $BUILD_DEBUG: words with commas between them.
func (a *app) setDebug(words string, stderr io.Writer) error {
	for word := range strings.SplitSeq(words, ",") {
		switch word {
		case "":
		case "hash":
			digest.Trace = stderr
		case "verify":
			a.verifies = true
		default:
			return usagef("it may name hash and verify", "BUILD_DEBUG=%s: %q is not known", words, word)
		}
	}
	return nil
}

// A verifier runs what is remembered, too, and compares. The build goes on with what is remembered: so each step runs on
// the inputs that it had, and a difference is told once, where it arises. It stands between a solver and what that asks.
type verifier struct {
	solver.Executor
	solver.Memory
	layers  *snapshot.Store
	display *progress.Display

	mu     sync.Mutex
	keys   map[digest.Digest][]cache.Key // of a vertex
	known  map[cache.Key]digest.Digest   // what would have been reused
	ran    int                           // of these
	differ int
}

// verify makes s run what it would reuse, and returns what tells the outcome when it is done.
func (a *app) verify(s *solver.Solver) *verifier {
	x := &verifier{Executor: s.Executor, Memory: s.Memory, layers: a.layers, display: a.display,
		keys: map[digest.Digest][]cache.Key{}, known: map[cache.Key]digest.Digest{}}
	s.Executor, s.Memory = x, x
	return x
}

// Definition implements solver.Executor.
func (x *verifier) Definition(ctx context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error) {
	key, err := x.Executor.Definition(ctx, v, inputs)
	return x.note(v, key), err
}

// Content implements solver.Executor.
func (x *verifier) Content(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error) {
	key, err := x.Executor.Content(ctx, v, inputs)
	return x.note(v, key), err
}

func (x *verifier) note(v *llb.Vertex, key cache.Key) cache.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keys[v.ID()] = append(x.keys[v.ID()], key)
	return key
}

// Lookup implements solver.Memory: it finds nothing, and keeps what it has found.
func (x *verifier) Lookup(ctx context.Context, key cache.Key) (digest.Digest, bool, error) {
	d, ok, err := x.Memory.Lookup(ctx, key)
	if err == nil && ok {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.known[key] = d
	}
	return digest.Digest{}, false, err
}

// Execute implements solver.Executor.
func (x *verifier) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	now, err := x.Executor.Execute(ctx, v, inputs)
	was, ok := x.remembered(v)
	if err != nil || !ok {
		return now, err
	}
	text, err := x.difference(ctx, was, now)
	if err != nil {
		return was, fmt.Errorf("comparing with what is kept: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ran++
	if text != "" {
		x.differ++
		x.display.Warn(fmt.Sprintf("%s: it gave something else than what is kept: %s", place(v), text))
	}
	return was, nil
}

// place names a step by where it is written and what it says.
func place(v *llb.Vertex) string {
	if m := v.Meta(); !m.Pos.IsZero() {
		return fmt.Sprintf("%s: %s", m.Pos, m.Label)
	}
	return v.Meta().Label
}

// remembered returns what would have been the result of a step.
func (x *verifier) remembered(v *llb.Vertex) (digest.Digest, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range x.keys[v.ID()] {
		if d, ok := x.known[key]; ok {
			return d, true
		}
	}
	return digest.Digest{}, false
}

// difference says what two results do not have in common; "" is nothing. Times are no difference.
func (x *verifier) difference(ctx context.Context, was, now digest.Digest) (string, error) {
	var contents [2]digest.Digest
	var files [2]iter.Seq[snapshot.Entry]
	for i, id := range []digest.Digest{was, now} {
		var err error
		if contents[i], err = x.layers.Content(id); err != nil {
			return "", err
		}
	}
	if contents[0] == contents[1] {
		return "", nil
	}
	for i, id := range []digest.Digest{was, now} {
		view, err := x.layers.View(ctx, id)
		if err != nil {
			return "", err
		}
		var list []snapshot.Entry
		err = snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
			list = append(list, e)
			return true, context.Cause(ctx)
		})
		if err != nil {
			return "", err
		}
		files[i] = slices.Values(list)
	}
	return history.Differences(files[0], files[1]), nil
}

// tell says how it went, and is an error when something was different.
func (x *verifier) tell() error {
	var err error
	step := x.display.Step("verifying what is reused")
	if x.differ > 0 {
		err = &verifyError{differ: x.differ, ran: x.ran}
	} else {
		stdout, _ := step.Log()
		fmt.Fprintf(stdout, "%s ran again and gave the same\n", counted(x.ran, "reused step", "reused steps"))
	}
	step.Done(err)
	return err
}

// A verifyError says that remembered results are not what their steps give now.
type verifyError struct{ differ, ran int }

func (e *verifyError) Error() string {
	return fmt.Sprintf("%d of %s gave something else when run again", e.differ, counted(e.ran, "reused step", "reused steps"))
}

// verifyHint is what to do about it.
const verifyHint = "a step is reused for as long as what it reads is the same: give it fixed versions, and no times or random numbers; the image has what was kept"
