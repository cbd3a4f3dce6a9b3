package progress

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed0570efb0/build/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files")

// at is n tenths of a second after the builds of these tests began.
func at(n int) time.Time { return time.Unix(1000, 0).Add(time.Duration(n) * interval) }

func example(steps ...*Step) build {
	for i, s := range steps {
		s.number = i + 1
	}
	return build{began: at(0), steps: steps}
}

// lines returns the tail of a step that has written n lines.
func lines(n int) tail {
	var t tail
	for i := range n {
		t.add(fmt.Sprintf("line %d", i+1), tailLines)
	}
	return t
}

// many returns a build of which the first steps are finished.
func many(finished, running, output int) build {
	var steps []*Step
	for range finished {
		steps = append(steps, &Step{name: fmt.Sprintf("[stage-1 %d/%d] RUN true", len(steps)+1, finished+running), began: at(0), ended: at(3), state: done})
	}
	for range running {
		steps = append(steps, &Step{name: fmt.Sprintf("[stage-1 %d/%d] RUN make", len(steps)+1, finished+running), began: at(3), tail: lines(output)})
	}
	return example(steps...)
}

func mixed() build {
	return example(
		&Step{name: "[build 1/3] FROM docker.io/library/golang:1.26", began: at(0), ended: at(1), state: cached},
		&Step{name: "[stage-1 1/2] FROM docker.io/library/debian:12", began: at(1), statuses: []*status{
			{text: "pulling sha256:aaaa", current: 500, total: 500},
			{text: "pulling sha256:bbbb", current: 3_200_000, total: 10_000_000},
			{text: "reading", current: 0, total: 0},
			{text: "unpacking", current: 0, total: 0},
		}},
		&Step{name: "[build 2/3] COPY . .", began: at(1), ended: at(14), state: done},
		&Step{name: "[build 3/3] RUN make -j 8 all install DESTDIR=/out && strip /out/bin/* && rm -rf /var/cache/*", began: at(14), tail: lines(8)},
		&Step{name: "[test 2/2] RUN printf '大小 größe' > ö", began: at(15), ended: at(22), state: failed, tail: tail{lines: []string{"a\tb", "a long line of output that does not fit into most of the terminals that people use, and is cut"}}},
		&Step{name: "exporting to image", began: at(20), ended: at(32), state: canceled},
	)
}

func TestFrame(t *testing.T) {
	for _, c := range []struct {
		name          string
		build         build
		width, height int
		colors        palette
		last          bool
	}{
		{"mixed", mixed(), 80, 24, nil, false},
		{"mixed_colors", mixed(), 80, 24, defaultPalette(), false},
		{"mixed_narrow", mixed(), 40, 24, nil, false},
		{"mixed_tiny", mixed(), 14, 5, nil, false},
		{"mixed_wide", mixed(), 132, 40, nil, false},
		{"mixed_last", mixed(), 80, 5, nil, true},
		{"old_steps_hidden", many(30, 1, 3), 80, 12, nil, false},
		{"output_shortened", many(2, 3, 6), 80, 14, nil, false},
		{"too_many_running", many(4, 20, 2), 80, 10, nil, false},
		{"finished", many(4, 0, 0), 80, 3, nil, true},
		{"no_steps", example(), 80, 24, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows := frame(c.build, c.height, 6, at(32), c.last)
			if !c.last && len(rows) > c.height-1 {
				t.Errorf("%d rows on a screen of %d", len(rows), c.height)
			}
			var got bytes.Buffer
			for _, r := range rows {
				if plain := r.text(c.width, nil); columns(plain) > c.width {
					t.Errorf("%q is wider than %d", plain, c.width)
				}
				fmt.Fprintln(&got, strings.ReplaceAll(r.text(c.width, c.colors), "\x1b", "␛"))
			}
			golden := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			check(t, got.String(), string(want))
		})
	}
}

// Whatever the size, a frame stays within the screen.
func TestFrameFits(t *testing.T) {
	for width := range 60 {
		for height := range 30 {
			rows := frame(many(5, 3, 6), height, []int{6, math.MaxInt}[width%2], at(32), false)
			if len(rows) > max(height-1, 1) {
				t.Fatalf("%dx%d: %d rows", width, height, len(rows))
			}
			for _, r := range rows {
				if got := r.text(width, nil); columns(got) > width {
					t.Fatalf("%dx%d: %q", width, height, got)
				}
			}
		}
	}
}

// A screen is as much of a terminal as the live view needs: it wraps lines, scrolls, and obeys what
// moves the cursor up and what erases.
type screen struct {
	width, height int
	lines         [][]rune // what has scrolled off included
	x, y          int
	hidden        bool
	unknown       []string
}

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			i := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' })
			s.obey(rest[:i+1])
			text = rest[i+1:]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		s.put(r)
	}
	return len(p), nil
}

func (s *screen) line() *[]rune {
	for len(s.lines) <= s.y {
		s.lines = append(s.lines, nil)
	}
	return &s.lines[s.y]
}

func (s *screen) put(r rune) {
	switch r {
	case '\r':
		s.x = 0
		return
	case '\n':
		s.y++
		s.line()
		return
	}
	if s.x >= s.width {
		s.x, s.y = 0, s.y+1
	}
	line := s.line()
	for len(*line) <= s.x {
		*line = append(*line, ' ')
	}
	(*line)[s.x] = r
	s.x++
}

func (s *screen) obey(command string) {
	top := max(0, len(s.lines)-s.height)
	var n int
	switch fmt.Sscanf(command, "%dA", &n); {
	case n > 0 && strings.HasSuffix(command, "A"):
		s.y = max(top, s.y-n)
	case command == "J":
		s.line()
		s.lines = s.lines[:s.y+1]
		*s.line() = (*s.line())[:min(s.x, len(*s.line()))]
	case command == "2K":
		*s.line() = nil
	case command == "?25l", command == "?25h":
		s.hidden = command == "?25l"
	case strings.HasSuffix(command, "m"):
	default:
		s.unknown = append(s.unknown, command)
	}
}

func (s *screen) String() string {
	var out strings.Builder
	for _, line := range s.lines {
		fmt.Fprintln(&out, strings.TrimRight(string(line), " "))
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{width: 40, height: 8}
		fmt.Fprint(s, "$ build .\r\n")
		d := start(s, &live{look: look{defaultPalette(), 6}, size: func() (int, int) { return s.width, s.height }})
		tick := func(want string) {
			t.Helper()
			testkit.Pass(interval)
			synctest.Wait()
			check(t, s.String(), want)
			if s.hidden || s.x != 0 {
				t.Errorf("the cursor is hidden (%v) or in column %d", s.hidden, s.x)
			}
		}
		tick("$ build .\n") // nothing yet

		a, b := vertex("[1/3] FROM busybox"), vertex("[2/3] RUN make")
		d.Cached(a)
		d.Started(b)
		stdout, _ := d.Log(b)
		fmt.Fprint(stdout, "compiling\n")
		tick(`
$ build .
[+] Building 0.2s (1/2)
 => CACHED [1/3] FROM busybox      0.0s
 => [2/3] RUN make                 0.1s
 => => # compiling
`)

		d.Warn("a warning that is longer than the terminal is wide")
		fmt.Fprint(stdout, "linking\n")
		tick(`
$ build .
WARNING: a warning that is longer than t
he terminal is wide
[+] Building 0.3s (1/2)
 => CACHED [1/3] FROM busybox      0.0s
 => [2/3] RUN make                 0.2s
 => => # compiling
 => => # linking
`)

		c := d.Step("pulling")
		tick(`
$ build .
WARNING: a warning that is longer than t
he terminal is wide
[+] Building 0.4s (1/3)
 => CACHED [1/3] FROM busybox      0.0s
 => [2/3] RUN make                 0.3s
 => => # compiling
 => => # linking
 => pulling                        0.1s
`)

		c.Done(nil)
		d.Done(b, fmt.Errorf("exit status 1"))
		d.Close()
		check(t, s.String(), `
$ build .
WARNING: a warning that is longer than t
he terminal is wide
[+] Building 0.4s (2/3) FAILED
 => CACHED [1/3] FROM busybox      0.0s
 => ERROR [2/3] RUN make           0.3s
 => => # compiling
 => => # linking
 => pulling                        0.1s
`)
		if len(s.unknown) > 0 {
			t.Errorf("unknown commands %q", s.unknown)
		}
	})
}

// A terminal that becomes narrower wraps the lines of the last frame: the next one covers them all.
func TestLiveNarrower(t *testing.T) {
	width := 40
	l := &live{look: look{nil, 6}, size: func() (int, int) { return width, 24 }}
	b := many(2, 1, 1)
	l.draw(b, at(32), false)
	if got := l.height(40); got != 5 {
		t.Errorf("the frame has %d lines, want 5", got)
	}
	width = 20
	if got := string(l.draw(b, at(32), false)); !strings.HasPrefix(got, "\x1b[?25l\r\x1b[9A\x1b[J") {
		t.Errorf("got %q", got)
	}
}

// Nothing is written when nothing has changed.
func TestLiveIdle(t *testing.T) {
	l := &live{look: look{nil, 6}, size: func() (int, int) { return 80, 24 }}
	b := many(3, 0, 0)
	l.draw(b, at(32), false)
	if got := l.draw(b, at(32), false); got != nil {
		t.Errorf("got %q", got)
	}
	next := string(l.draw(b, at(33), false))
	if strings.Contains(next, "RUN") || !strings.Contains(next, "3.3s") {
		t.Errorf("only the header has changed, but %q", next)
	}
}
