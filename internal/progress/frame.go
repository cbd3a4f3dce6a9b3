package progress

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// A row is one line of the live view.
type row struct {
	left, right string
	tone        tone
}

// frame returns the rows that show b at the given time on a screen of that height, with at most so many lines of a step's output. The
// last frame is not bound by the screen: it stays, and scrolls.
func frame(b build, height, most int, now time.Time, last bool) []row {
	if len(b.steps) == 0 {
		return nil
	}
	room := math.MaxInt - 1
	if !last {
		room = max(height-2, 0) // the header, and the line of the cursor
	}
	output, hidden := fit(b.steps, room, most)
	rows := []row{header(b, now, last)}
	if hidden > 0 {
		rows = append(rows, row{left: fmt.Sprintf(" => (%d finished steps not shown)", hidden)})
	}
	for _, s := range b.steps {
		if hidden > 0 && s.settled() {
			hidden--
			continue
		}
		rows = append(rows, s.row(now))
		rows = append(rows, s.details(output)...)
	}
	return rows[:min(len(rows), 1+room)]
}

// fit decides what is left out to use no more than room lines: the oldest of the steps that are
// finished without a failure, and lines of output of the others.
func fit(steps []*Step, room, most int) (output, hidden int) {
	busy, finished := 0, 0
	for output = min(most, room); ; output-- {
		busy, finished = 0, 0
		for _, s := range steps {
			if s.settled() {
				finished++
			} else {
				busy += 1 + len(s.details(output))
			}
		}
		if busy+min(finished, 1) <= room || output == 0 {
			break
		}
	}
	if busy+finished <= room {
		return output, 0
	}
	return output, finished - max(room-busy-1, 0) // one line says how many are not shown
}

func header(b build, now time.Time, last bool) row {
	finished, broken := 0, false
	for _, s := range b.steps {
		switch s.state {
		case cached, done:
			finished++
		case failed, canceled:
			broken = true
		}
	}
	text := fmt.Sprintf("[+] Building %.1fs (%d/%d)", now.Sub(b.began).Seconds(), finished, len(b.steps))
	switch {
	case last && broken:
		text += " FAILED"
	case last:
		text += " FINISHED"
	}
	return row{left: text}
}

// settled reports whether nothing is to be said about the step but how it ended.
func (s *Step) settled() bool { return s.state != running && s.state != failed }

// row returns the line that names the step.
func (s *Step) row(now time.Time) row {
	r := row{right: fmt.Sprintf("%.1fs", s.elapsed(now).Seconds())}
	switch s.state {
	case running:
		r.left = " => " + s.name
	case cached:
		r.left, r.tone = " => CACHED "+s.name, toneRun
	case done:
		r.left, r.tone = " => "+s.name, toneRun
	case failed:
		r.left, r.tone = " => ERROR "+s.name, toneError
	case canceled:
		r.left, r.tone = " => CANCELED "+s.name, toneCancel
	}
	return r
}

// details returns the lines below the name of the step: at most n about what it is working on, and
// at most n of its output.
func (s *Step) details(n int) []row {
	if s.settled() {
		return nil
	}
	var rows []row
	for i, u := range s.statuses {
		// What has nothing to count has ended when something else begins.
		if u.complete() || (u.amount() == "" && i < len(s.statuses)-1) || s.state != running {
			continue
		}
		rows = append(rows, row{left: " => => " + u.text, right: u.amount()})
	}
	rows = rows[:min(len(rows), n)]
	for _, line := range s.tail.last(n) {
		rows = append(rows, row{left: " => => # " + line})
	}
	return rows
}

// text returns the row as text that is at most width columns wide, the right part at the right edge.
func (r row) text(width int, colors palette) string {
	right := r.right
	if width < len(right)+12 {
		right = "" // the name says more than the time
	}
	left := r.left
	if right != "" {
		room := width - len(right) - 1
		left = cut(left, room)
		left += strings.Repeat(" ", room-columns(left)+1) + right
	} else {
		left = cut(left, width)
	}
	return colors.paint(r.tone, left)
}

// cut returns s with its tabs expanded, and shortened to at most n columns.
func cut(s string, n int) string {
	const dots = "..."
	var out strings.Builder
	at := 0   // the column
	keep := 0 // the length of out up to which there is room for dots
	for _, r := range s {
		w := runeColumns(r)
		if r == '\t' {
			w = 8 - at%8
		}
		if at+w > n {
			if n < len(dots) {
				return dots[:max(n, 0)]
			}
			return out.String()[:keep] + dots
		}
		if r == '\t' {
			out.WriteString(strings.Repeat(" ", w))
		} else {
			out.WriteRune(r)
		}
		at += w
		if at <= n-len(dots) {
			keep = out.Len()
		}
	}
	return out.String()
}

// columns returns the width of s on a terminal.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}
