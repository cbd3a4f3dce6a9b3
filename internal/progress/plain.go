package progress

import (
	"fmt"
	"slices"
	"time"
)

// hold is how long a running step keeps the log to itself. Two steps that talk at the same
// time would otherwise alternate line by line.
const hold = time.Second

// plain is a log, in blocks of lines of one step. Lines start with the number of their step; a
// block starts with its name.
type plain struct {
	pending map[*Step][]byte // lines that are not written yet; nil is the build
	queue   []*Step          // the keys of pending, oldest first

	current *Step     // whose block is open
	since   time.Time // when it was opened
	open    bool      // a block is open
}

func newPlain() *plain { return &plain{pending: map[*Step][]byte{}} }

func (p *plain) say(s *Step, text string) {
	lines, queued := p.pending[s]
	if !queued {
		p.queue = append(p.queue, s)
	}
	switch {
	case s == nil:
		lines = fmt.Appendf(lines, "%s\n", text)
	case text != "":
		lines = fmt.Appendf(lines, "#%d %s\n", s.number, text)
	}
	p.pending[s] = lines
}

func (p *plain) tell(news) {}

func (p *plain) draw(_ build, now time.Time, last bool) []byte {
	var out []byte
	if _, queued := p.pending[p.current]; queued && p.open {
		out = p.take(out, p.current)
	}
	for len(p.queue) > 0 && (last || !p.held(now)) {
		s := p.queue[0]
		out = p.begin(out, s, now)
		out = p.take(out, s)
	}
	return out
}

// held reports whether the open block must not be closed yet.
func (p *plain) held(now time.Time) bool {
	return p.current != nil && p.current.state == running && now.Sub(p.since) < hold
}

// begin closes the open block and opens one for s.
func (p *plain) begin(out []byte, s *Step, now time.Time) []byte {
	if p.current != nil && p.current.state == running {
		out = fmt.Appendf(out, "#%d ...\n", p.current.number)
	}
	if p.open {
		out = append(out, '\n')
	}
	if s != nil {
		out = fmt.Appendf(out, "#%d %s\n", s.number, s.name)
	}
	p.current, p.since, p.open = s, now, true
	return out
}

// take moves the lines of s, which is queued, to out.
func (p *plain) take(out []byte, s *Step) []byte {
	out = append(out, p.pending[s]...)
	delete(p.pending, s)
	i := slices.Index(p.queue, s)
	p.queue = slices.Delete(p.queue, i, i+1)
	return out
}
