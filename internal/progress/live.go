package progress

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// live is a view that redraws itself in place. The cursor rests on the line below it.
type live struct {
	// size is asked for each frame, which is cheaper than to listen for changes and never stale.
	size     func() (width, height int)
	look     look
	warnings []string // to be written above the view

	shown []string // the lines on the screen, without colours
	drawn []string // the same as they were written
	width int      // of the screen, when they were
}

func newLive(terminal *os.File, k look) *live {
	return &live{
		look: k,
		size: func() (int, int) {
			w, h, err := term.GetSize(int(terminal.Fd()))
			if err != nil || w <= 0 || h <= 0 {
				return 80, 24
			}
			return w, h
		},
	}
}

func (l *live) say(s *Step, text string) {
	if s == nil {
		l.warnings = append(l.warnings, text)
	}
}

func (l *live) tell(news) {}

// draw moves up over the last frame and writes the lines that differ. The cursor is hidden only within these
// bytes: a build that is killed leaves the terminal as it was.
func (l *live) draw(b build, now time.Time, last bool) []byte {
	width, height := l.size()
	rows := frame(b, height, l.look.output, now, last)
	shown, drawn := make([]string, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		// Some terminals wrap as soon as the last column is used.
		shown[i], drawn[i] = r.text(width-1, nil), r.text(width-1, l.look.palette)
	}
	if len(rows) == 0 && len(l.warnings) == 0 {
		return nil
	}
	moved := width != l.width || len(l.warnings) > 0
	if !moved && slices.Equal(drawn, l.drawn) {
		return nil
	}
	var out strings.Builder
	out.WriteString("\x1b[?25l\r")
	if n := l.height(width); n > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", n)
	}
	if moved {
		out.WriteString("\x1b[J")
	}
	for _, text := range l.warnings {
		out.WriteString(l.warning(text))
	}
	for i, line := range drawn {
		if moved || i >= len(l.drawn) || l.drawn[i] != line {
			out.WriteString("\x1b[2K" + line)
		}
		out.WriteString("\r\n")
	}
	out.WriteString("\x1b[J\x1b[?25h")
	l.shown, l.drawn, l.width, l.warnings = shown, drawn, width, nil
	return []byte(out.String())
}

// warning returns a line that stays above the view, whatever its length: the terminal may wrap it.
func (l *live) warning(text string) string {
	return l.look.palette.paint(toneWarning, text) + "\r\n"
}

// height returns how many lines of a screen of that width the view takes. Most terminals wrap
// lines anew when they become narrower.
func (l *live) height(width int) int {
	n := 0
	for _, line := range l.shown {
		n += max(1, (columns(line)+width-1)/width)
	}
	return n
}
