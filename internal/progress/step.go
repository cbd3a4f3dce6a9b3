package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/seed0570efb0/build/llb"
)

const (
	// logLimit is how much of a step's output is shown. Its last lines are kept beyond it.
	logLimit = 2 << 20
	// tailLines is how many of a step's last lines are kept for its error.
	tailLines = 30
	// statusInterval is the time between two lines in the log about one piece of work.
	statusInterval = 5 * time.Second
)

// A Step is one piece of a build, as people see it: a vertex, or something around the graph
// like a push. All its methods may be called from any goroutine, and do nothing once it is done.
type Step struct {
	display        *Display
	vertex         *llb.Vertex // nil for what is not in the graph
	number         int
	name           string
	stdout, stderr stream

	// What follows is guarded by display.mu.

	state        state
	began, ended time.Time
	logged       int // bytes of output
	tail         tail
	cause        string    // of its failure
	statuses     []*status // in order of first appearance
	because      string    // it is not reused
	usage        *Usage
	note         string // for the line that says it is done
}

type state uint8

const (
	running state = iota
	cached
	done
	failed
	canceled
)

// A status is a piece of work within a step: a layer that is pulled, a blob that is pushed.
type status struct {
	text           string
	current, total int64
	began          time.Time
	said           time.Time // when the log last had a line about it
}

// complete reports whether the status says by itself that it has ended.
func (u *status) complete() bool { return u.total > 0 && u.current >= u.total }

// amount returns how far it is, like "3.2MB / 10MB", or "" when that is not known.
func (u *status) amount() string {
	switch {
	case u.total > 0:
		return size(u.current) + " / " + size(u.total)
	case u.current > 0:
		return size(u.current)
	}
	return ""
}

// Log returns writers for the output of the step.
func (s *Step) Log() (stdout, stderr io.Writer) { return &s.stdout, &s.stderr }

// Done shows that the step has ended, in which way err says.
func (s *Step) Done(err error) {
	s.display.mu.Lock()
	defer s.display.mu.Unlock()
	s.done(err)
}

// Status shows how far the step is with the work that text names: current of total bytes. A
// total of 0 means that it is not known, both 0 that there is nothing to count.
func (s *Step) Status(text string, current, total int64) {
	s.display.mu.Lock()
	defer s.display.mu.Unlock()
	if s.state != running {
		return
	}
	text = OneLine(text)
	i := slices.IndexFunc(s.statuses, func(u *status) bool { return u.text == text })
	if i < 0 {
		i = len(s.statuses)
		s.statuses = append(s.statuses, &status{text: text, began: time.Now()})
	}
	u := s.statuses[i]
	changed := u.said.IsZero() || u.current != current || u.total != total
	u.current, u.total = current, total
	s.display.view.tell(news{step: s, status: u})
	if now := time.Now(); changed && (u.complete() || now.Sub(u.said) >= statusInterval) {
		u.said = now
		s.display.view.say(s, u.line())
	}
}

// line returns the status as a line of the log.
func (u *status) line() string {
	line := u.text
	if a := u.amount(); a != "" {
		line += " " + a
	}
	if u.complete() {
		line += " done"
	}
	return line
}

// done ends the step; the display is locked.
func (s *Step) done(err error) {
	cause := ""
	if err != nil {
		cause = OneLine(err.Error())
	}
	s.finish(time.Now(), outcome(err), cause)
}

// finish ends the step unless it has ended; the display is locked.
func (s *Step) finish(now time.Time, how state, cause string) {
	if s.state != running {
		return
	}
	s.stdout.flush()
	s.stderr.flush()
	s.state, s.ended, s.cause = how, now, cause
	s.display.view.tell(news{step: s})
	switch how {
	case cached:
		s.display.view.say(s, "CACHED")
	case failed:
		s.display.view.say(s, "ERROR: "+cause)
	case canceled:
		s.display.view.say(s, "CANCELED")
	default:
		s.display.view.say(s, strings.TrimSpace(fmt.Sprintf("DONE %.1fs %s", s.elapsed(now).Seconds(), s.note)))
	}
	if how == cached || how == done {
		s.tail = tail{} // only asked for in errors
	}
}

// print shows one clean line of output; the display is locked.
func (s *Step) print(line string) {
	s.tail.add(line, s.display.keep)
	if s.logged > logLimit {
		return
	}
	s.logged += len(line) + 1
	if s.logged > logLimit {
		s.display.view.say(s, fmt.Sprintf("[output clipped: this step has written more than %d MiB]", logLimit>>20))
		return
	}
	s.display.view.say(s, fmt.Sprintf("%.3f %s", time.Since(s.began).Seconds(), line))
}

// elapsed returns how long the step has been running.
func (s *Step) elapsed(now time.Time) time.Duration {
	switch s.state {
	case running:
		return now.Sub(s.began)
	case cached:
		return 0
	}
	return s.ended.Sub(s.began)
}

// A tail keeps the last lines of a step's output.
type tail struct {
	lines []string // a ring once it is full
	next  int      // where the next line goes in a full ring
}

// add adds a line to the last so many.
func (t *tail) add(line string, keep int) {
	if len(t.lines) < keep {
		t.lines = append(t.lines, line)
		return
	}
	t.lines[t.next] = line
	t.next = (t.next + 1) % len(t.lines)
}

// last returns the last n lines, or all when there are fewer.
func (t *tail) last(n int) []string {
	all := slices.Concat(t.lines[t.next:], t.lines[:t.next])
	return all[max(0, len(all)-n):]
}

// size writes a number of bytes for people, in powers of 1000 as registries and other builders do.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	x := float64(n)
	units := "kMGTPE"
	i := -1
	// 999,950 would print as 1000.0: it belongs to the next unit.
	for ; x >= 999.95; i++ {
		x /= 1000
	}
	return fmt.Sprintf("%.1f%cB", x, units[max(i, 0)])
}
