// Package progress shows people what a build is doing, on standard error: as a log, or
// as a live view on a terminal.
//
// It only hears of steps. What they do and in which order is the solver's business; what
// comes out of the build, and the error that ended it, are printed by the caller once the
// display is closed.
package progress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// interval is the time between two writes. Whatever happens in between is written at once, so
// that a thousand cached steps cost a few system calls.
const interval = 100 * time.Millisecond

// A Display shows the steps of one build. Its methods may be called from any goroutine and
// never wait for the terminal, except for Close. It is an observer of the solver.
type Display struct {
	out  io.Writer
	view view

	writing sync.Mutex  // held by who draws and writes, also while that takes long
	next    *time.Timer // of the next write
	closed  bool

	mu    sync.Mutex
	keep  int // how many of a step's last lines
	build build
	steps map[digest.Digest]*Step
}

// A build is all that a view knows.
type build struct {
	began time.Time
	steps []*Step // in order of first appearance
}

// A view turns a build into bytes. It is called by one goroutine at a time.
type view interface {
	// say adds a line to the log of s. An empty text announces s; a nil step means the whole build.
	say(s *Step, text string)
	// tell is say for views that programs read.
	tell(n news)
	// draw returns what is to be written now. After the last call there is no other.
	draw(b build, now time.Time, last bool) []byte
}

// New returns a display that writes to stderr until it is closed. The mode is "plain" for a log, "tty" for a
// live view, "rawjson" for a line of JSON with the fields of BuildKit's SolveStatus whenever something has happened,
// "quiet" for nothing, or "auto" (or ""): tty when stderr is a terminal that can move its cursor,
// else plain. The live view looks as NO_COLOR, BUILDKIT_COLORS and BUILDKIT_TTY_LOG_LINES
// say.
func New(mode string, stderr io.Writer) (*Display, error) {
	file, _ := stderr.(*os.File)
	terminal := file != nil && term.IsTerminal(int(file.Fd()))
	switch mode {
	case "", "auto":
		if terminal && os.Getenv("TERM") != "dumb" {
			return startLive(file), nil
		}
		return start(stderr, newPlain()), nil
	case "tty":
		if !terminal {
			return nil, errors.New("progress tty: standard error is not a terminal; use plain")
		}
		return startLive(file), nil
	case "plain":
		return start(stderr, newPlain()), nil
	case "rawjson":
		return start(stderr, &rawJSON{}), nil
	case "quiet", "none":
		return start(io.Discard, quiet{}), nil
	}
	return nil, fmt.Errorf("progress %q: unknown mode; use auto, plain, tty, rawjson or quiet", mode)
}

// startLive starts a live view that looks as the environment asks for.
func startLive(terminal *os.File) *Display {
	k, wrong := newLook(os.Getenv)
	d := start(terminal, newLive(terminal, k))
	d.mu.Lock()
	d.keep = max(d.keep, k.output)
	d.mu.Unlock()
	for _, text := range wrong {
		d.Warn(text)
	}
	return d
}

func start(out io.Writer, v view) *Display {
	d := &Display{
		out:   out,
		view:  v,
		keep:  tailLines,
		build: build{began: time.Now()},
		steps: map[digest.Digest]*Step{},
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	d.next = time.AfterFunc(interval, d.tick) // no goroutine waits: a cached build is done before one would have anything to do
	return d
}

// tick writes what is due, and comes again.
func (d *Display) tick() {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !d.closed {
		d.write(false)
		d.next.Reset(interval)
	}
}

// write writes what is due. The lock of the steps is not held meanwhile: a build must not wait for somebody
// who has stopped his terminal.
func (d *Display) write(last bool) {
	d.mu.Lock()
	now := time.Now()
	if last {
		for _, s := range d.build.steps {
			s.finish(now, canceled, "")
		}
	}
	b := d.view.draw(d.build, now, last)
	d.mu.Unlock()
	if len(b) > 0 {
		d.out.Write(b) // nobody is left to be told that this does not work
	}
}

// Close shows what has not been shown yet and returns when it is written. Steps that are still
// running are shown as canceled. Nothing is written after Close; a second Close does nothing.
func (d *Display) Close() {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !d.closed {
		d.closed = true
		d.next.Stop()
		d.write(true)
	}
}

// Cached shows that v is not run since its result is known.
func (d *Display) Cached(v *llb.Vertex) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vertex(v).finish(time.Now(), cached, "")
}

// Started shows that v is running.
func (d *Display) Started(v *llb.Vertex) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vertex(v)
}

// Done shows that v has ended, in which way err says.
func (d *Display) Done(v *llb.Vertex, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vertex(v).done(err)
}

// Log returns writers for the output of v. What is written there after v is done is lost.
func (d *Display) Log(v *llb.Vertex) (stdout, stderr io.Writer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.vertex(v)
	return &s.stdout, &s.stderr
}

// Tail returns the last lines of the output of v, for the error that reports its failure. It returns
// nothing for a vertex that has succeeded.
func (d *Display) Tail(v *llb.Vertex) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.steps[v.ID()]; s != nil {
		return s.tail.last(tailLines)
	}
	return nil
}

// Step shows that something is running which is not a vertex, like a push.
func (d *Display) Step(name string) *Step {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.step(name, nil)
}

// Use keeps what the step of a vertex has used.
func (d *Display) Use(v *llb.Vertex, u Usage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.vertex(v)
	s.usage = &u
	if u.CPU >= notableCPU {
		s.note = u.text()
	}
}

// Because shows why v, which has started, is not reused. A log has a line for it if say is set.
func (d *Display) Because(v *llb.Vertex, cause string, say bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.vertex(v)
	if s.state != running {
		return
	}
	s.because = OneLine(cause)
	if say {
		d.view.say(s, "cause: "+s.because)
	}
	d.view.tell(news{step: s})
}

// Warn shows a warning about the whole build.
func (d *Display) Warn(text string) { d.WarnAbout(Warning{Level: 1, Short: []byte(text)}) }

// WarnAbout shows a warning about a place in the Dockerfile.
func (d *Display) WarnAbout(w Warning) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.view.say(nil, "WARNING: "+OneLine(string(w.Short)))
	d.view.tell(news{warning: &w})
}

// vertex returns the step that runs v.
func (d *Display) vertex(v *llb.Vertex) *Step {
	s := d.steps[v.ID()]
	if s == nil {
		s = d.step(v.Meta().Label, v)
		d.steps[v.ID()] = s
	}
	return s
}

// step begins a step, of a vertex unless that is nil.
func (d *Display) step(name string, v *llb.Vertex) *Step {
	s := &Step{
		display: d,
		vertex:  v,
		number:  len(d.build.steps) + 1,
		name:    OneLine(name),
		began:   time.Now(),
	}
	s.stdout.step, s.stderr.step = s, s
	s.stdout.number, s.stderr.number = 1, 2
	d.build.steps = append(d.build.steps, s)
	d.view.say(s, "")
	d.view.tell(news{step: s})
	return s
}

// outcome returns the state that a step with the error err ends in. A step that was told to stop did not
// fail: the failure is where the order came from.
func outcome(err error) state {
	switch {
	case err == nil:
		return done
	case errors.Is(err, context.Canceled):
		return canceled
	}
	return failed
}

// quiet is the view that shows nothing.
type quiet struct{}

func (quiet) say(*Step, string)                  {}
func (quiet) tell(news)                          {}
func (quiet) draw(build, time.Time, bool) []byte { return nil }
