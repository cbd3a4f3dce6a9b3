package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
)

// vertex returns a vertex with that label and an ID of its own.
func vertex(label string) *llb.Vertex {
	return llb.New(&llb.Local{Name: label}, nil, llb.Meta{Label: label})
}

// logOf returns the plain log of what f does to a display, on a clock that only sleeping moves.
func logOf(t *testing.T, f func(d *Display)) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		d := start(&out, newPlain())
		f(d)
		d.Close()
	})
	return out.String()
}

func check(t *testing.T, got, want string) {
	t.Helper()
	if want = strings.TrimPrefix(want, "\n"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestUsageStandsBehindTheTime(t *testing.T) {
	run, small := vertex("RUN make"), vertex("RUN true")
	check(t, logOf(t, func(d *Display) {
		d.Started(run)
		testkit.Pass(2 * time.Second)
		d.Use(run, Usage{CPU: 1500 * time.Millisecond, Memory: 3 << 20, Written: 1 << 10})
		d.Done(run, nil)
		d.Started(small)
		d.Use(small, Usage{CPU: time.Millisecond, Memory: 1 << 20})
		d.Done(small, nil)
	}), `
#1 RUN make
#1 DONE 2.0s (cpu 1.5s, memory 3MiB, written 1KiB)

#2 RUN true
#2 DONE 0.0s
`)
}

func TestPlainOneAfterAnother(t *testing.T) {
	from, run := vertex("[1/3] FROM busybox"), vertex("[2/3] RUN make")
	check(t, logOf(t, func(d *Display) {
		d.Cached(from)
		d.Started(run)
		stdout, stderr := d.Log(run)
		testkit.Pass(123 * time.Millisecond)
		io.WriteString(stdout, "out")
		io.WriteString(stderr, "err\n")
		io.WriteString(stdout, "put\nno newline")
		d.Done(run, nil)
		push := d.Step("pushing r/app:1")
		testkit.Pass(60 * time.Millisecond)
		push.Done(nil)
		push.Done(errors.New("only the first counts"))
	}), `
#1 [1/3] FROM busybox
#1 CACHED

#2 [2/3] RUN make
#2 0.123 err
#2 0.123 output
#2 0.123 no newline
#2 DONE 0.1s

#3 pushing r/app:1
#3 DONE 0.1s
`)
}

// A running step keeps the log for a second, so that steps in parallel stay readable; whole
// lines of each come in order.
func TestPlainParallel(t *testing.T) {
	check(t, logOf(t, func(d *Display) {
		a, b := d.Step("a"), d.Step("b")
		aout, _ := a.Log()
		bout, _ := b.Log()
		for i := range 3 {
			testkit.Pass(500 * time.Millisecond)
			fmt.Fprintf(aout, "a%d\n", i)
			fmt.Fprintf(bout, "b%d\n", i)
		}
		b.Done(nil)
		testkit.Pass(time.Second)
		a.Done(nil)
	}), `
#1 a
#1 0.500 a0
#1 1.000 a1
#1 ...

#2 b
#2 0.500 b0
#2 1.000 b1
#2 1.500 b2
#2 DONE 1.5s

#1 a
#1 1.500 a2
#1 DONE 2.5s
`)
}

func TestPlainFailure(t *testing.T) {
	bad, other := vertex("RUN false"), vertex("RUN sleep 9")
	check(t, logOf(t, func(d *Display) {
		d.Started(bad)
		d.Started(other)
		d.Warn("the base is\nold")
		d.Warn("and large")
		d.Step("left running")
		d.Done(bad, errors.New("process \"false\":\nexit status 1"))
		d.Done(other, fmt.Errorf("RUN sleep 9: %w", context.Canceled))
	}), `
#1 RUN false
#1 ERROR: process "false": exit status 1

#2 RUN sleep 9
#2 CANCELED

WARNING: the base is old
WARNING: and large

#3 left running
#3 CANCELED
`)
}

func TestPlainStatus(t *testing.T) {
	check(t, logOf(t, func(d *Display) {
		s := d.Step("exporting to image")
		s.Status("exporting layers", 0, 0)
		s.Status("exporting layers", 0, 0)
		for n := int64(0); n <= 10_000_000; n += 100_000 {
			s.Status("pushing sha256:0123", n, 10_000_000)
			testkit.Pass(70 * time.Millisecond)
		}
		s.Status("pushing sha256:0123", 10_000_000, 10_000_000)
		s.Status("unpacking", 1500, 0)
		s.Done(nil)
		s.Status("too late", 0, 0)
	}), `
#1 exporting to image
#1 exporting layers
#1 pushing sha256:0123 0B / 10.0MB
#1 pushing sha256:0123 7.2MB / 10.0MB
#1 pushing sha256:0123 10.0MB / 10.0MB done
#1 unpacking 1.5kB
#1 DONE 7.1s
`)
}

func TestOutputIsShownWithinTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		d := start(&out, newPlain())
		defer d.Close()
		stdout, _ := d.Step("a").Log()
		io.WriteString(stdout, "hello\n")
		testkit.Pass(interval)
		synctest.Wait()
		if got := out.String(); got != "#1 a\n#1 0.000 hello\n" {
			t.Errorf("got %q", got)
		}
	})
}

// The log of a step is clipped, its last lines are not: they are what its error shows.
func TestClip(t *testing.T) {
	v := vertex("RUN yes")
	var tail []string
	log := logOf(t, func(d *Display) {
		d.Started(v)
		stdout, _ := d.Log(v)
		line := []byte(strings.Repeat("y", 1023) + "\n")
		for range 3 << 10 {
			stdout.Write(line)
		}
		io.WriteString(stdout, "the cause")
		d.Done(v, errors.New("exit status 1"))
		d.Close()
		tail = d.Tail(v)
	})
	if len(log) < logLimit || len(log) > logLimit+(64<<10) {
		t.Errorf("the log has %d bytes", len(log))
	}
	if !strings.HasSuffix(log, "y\n#1 [output clipped: this step has written more than 2 MiB]\n#1 ERROR: exit status 1\n") {
		t.Errorf("the log ends with %q", log[len(log)-200:])
	}
	if len(tail) != tailLines || tail[tailLines-1] != "the cause" {
		t.Errorf("the tail has %d lines, the last is %q", len(tail), tail[len(tail)-1])
	}
}

func TestTail(t *testing.T) {
	for _, mode := range []string{"quiet", "plain"} {
		d, err := New(mode, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		good, bad := vertex("good"), vertex("bad")
		for _, v := range []*llb.Vertex{good, bad} {
			d.Started(v)
			_, stderr := d.Log(v)
			io.WriteString(stderr, "one\ntwo")
		}
		d.Done(good, nil)
		d.Done(bad, errors.New("exit status 1"))
		stdout, _ := d.Log(bad)
		io.WriteString(stdout, "too late\n")
		d.Close()
		d.Close()
		if got := d.Tail(bad); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("%s: failed step: %q", mode, got)
		}
		if got := d.Tail(good); len(got) != 0 {
			t.Errorf("%s: finished step: %q", mode, got)
		}
		if got := d.Tail(vertex("unheard of")); len(got) != 0 {
			t.Errorf("%s: unknown step: %q", mode, got)
		}
	}
}

func TestModes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for mode, want := range map[string]string{
		"": "", "auto": "", "plain": "", "quiet": "",
		"tty":   "progress tty: standard error is not a terminal; use plain",
		"fancy": `progress "fancy": unknown mode; use auto, plain, tty, rawjson or quiet`,
	} {
		d, err := New(mode, w)
		if got := fmt.Sprint(err); err != nil && got != want || err == nil && want != "" {
			t.Errorf("%q: error %v, want %q", mode, err, want)
		}
		if d != nil {
			d.Close()
		}
	}
}

// Observers are called from everywhere at once.
func TestConcurrent(t *testing.T) {
	var out bytes.Buffer
	d, err := New("plain", &out)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v := vertex(fmt.Sprintf("step %d", i))
			d.Started(v)
			stdout, stderr := d.Log(v)
			wg.Go(func() { fmt.Fprintln(stderr, "err") })
			for range 200 {
				fmt.Fprintln(stdout, "out")
			}
			s := d.Step("pull")
			s.Status("layer", 1, 2)
			s.Done(nil)
			d.Done(v, nil)
			d.Tail(v)
		})
	}
	wg.Wait()
	d.Close()
	if n := strings.Count(out.String(), " out\n"); n != 8*200 {
		t.Errorf("%d lines of output, want %d", n, 8*200)
	}
}

// A writer counts its writes.
type writes struct{ n int }

func (w *writes) Write(p []byte) (int, error) { w.n++; return len(p), nil }

func TestNothingIsWrittenAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		d := start(&out, newPlain())
		s := d.Step("a")
		d.Close()
		want := out.String()
		s.Status("late", 0, 0)
		d.Warn("late")
		d.Close()
		d.tick() // of a timer that went off as Close stopped it
		testkit.Pass(2 * interval)
		if got := out.String(); got != want {
			t.Errorf("%q was written after Close", got[len(want):])
		}
	})
}

func TestCachedBuildIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		d := start(&w, newPlain())
		for i := range 1000 {
			d.Cached(vertex(fmt.Sprint(i)))
		}
		d.Close()
		if w.n != 1 {
			t.Errorf("%d writes", w.n)
		}
	})
}

// BenchmarkCached is the cost of showing that nothing was to do in a build of 1,000 steps.
func BenchmarkCached(b *testing.B) {
	var vertices []*llb.Vertex
	for i := range 1000 {
		vertices = append(vertices, vertex(fmt.Sprintf("[stage %d/1000] RUN echo %d", i, i)))
	}
	views := map[string]func() view{
		"plain": func() view { return newPlain() },
		"tty":   func() view { return &live{look: look{nil, 6}, size: func() (int, int) { return 80, 24 }} },
	}
	for name, view := range views {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d := start(io.Discard, view())
				for _, v := range vertices {
					d.Cached(v)
				}
				d.Close()
			}
		})
	}
}

// BenchmarkOutput is the cost of one line of a step's output.
func BenchmarkOutput(b *testing.B) {
	d := start(io.Discard, quiet{})
	defer d.Close()
	stdout, _ := d.Step("RUN make").Log()
	line := []byte("  CC      drivers/net/ethernet/intel/e1000e/netdev.o\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		stdout.Write(line)
	}
}
