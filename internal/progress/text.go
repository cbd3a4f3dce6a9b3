package progress

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine is the length after which a line is broken: a step may write gigabytes without a newline.
const maxLine = 16 << 10

// A stream takes one stream of a step's output and cuts it into lines.
type stream struct {
	step   *Step
	number int // 1 or 2
	// What follows is guarded by step.display.mu.
	line     []byte
	returned bool // the last byte was a carriage return
}

// Write never fails: a step must not die because nobody can see it.
func (w *stream) Write(p []byte) (int, error) {
	w.step.display.mu.Lock()
	defer w.step.display.mu.Unlock()
	if w.step.state == running {
		w.step.display.view.tell(news{step: w.step, stream: w.number, output: p})
		w.feed(p)
	}
	return len(p), nil
}

// feed prints the lines that p completes. As on a terminal, what follows a carriage return
// replaces what was before it, so that of a progress bar the last state is shown.
func (w *stream) feed(p []byte) {
	for len(p) > 0 {
		if w.returned && p[0] != '\r' {
			if p[0] != '\n' {
				w.line = w.line[:0]
			}
			w.returned = false
		}
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			w.add(p)
			return
		}
		w.add(p[:i])
		if p[i] == '\n' {
			w.end()
		} else {
			w.returned = true
		}
		p = p[i+1:]
	}
}

// add appends p to the line and breaks the line where it is too long, between two characters.
func (w *stream) add(p []byte) {
	for len(w.line)+len(p) > maxLine {
		n := maxLine - len(w.line)
		for back := 1; back < utf8.UTFMax && n > 0 && !utf8.RuneStart(p[n]); back++ {
			n--
		}
		w.line = append(w.line, p[:n]...)
		w.end()
		p = p[n:]
	}
	w.line = append(w.line, p...)
}

func (w *stream) end() {
	w.step.print(clean(w.line))
	w.line = w.line[:0]
}

// flush ends a line that has no newline.
func (w *stream) flush() {
	if len(w.line) > 0 {
		w.end()
	}
	w.line = nil
}

// OneLine returns text as one line without anything that a terminal would obey.
func OneLine(text string) string {
	return clean([]byte(strings.ReplaceAll(strings.TrimRight(text, "\r\n"), "\n", " ")))
}

// clean returns line without anything that a terminal would obey: escape sequences (colours, too, since a
// line that is cut would leave them switched on), control characters and the invisible marks that reorder
// text. Tabs stay. Bytes that are not UTF-8 become U+FFFD.
func clean(line []byte) string {
	if !bytes.ContainsFunc(line, func(r rune) bool { return (r < ' ' && r != '\t') || r > '~' }) {
		return string(line)
	}
	out := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		switch {
		case r == '\x1b':
			n = escape(line)
		case r == '\b':
			_, last := utf8.DecodeLastRune(out)
			out = out[:len(out)-last]
		case r == '\t' || !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			out = utf8.AppendRune(out, r)
		}
		line = line[n:]
	}
	return string(out)
}

// escape returns the length of the escape sequence that b begins with. One that does not
// end takes all of b.
func escape(b []byte) int {
	if len(b) < 2 {
		return len(b)
	}
	switch b[1] {
	case '[': // a control sequence: parameters, then one letter
		return upTo(b, 2, '@', '~')
	case ']', 'P', 'X', '^', '_': // a string: up to BEL or ESC \
		for i := 2; i < len(b); i++ {
			if b[i] == '\a' {
				return i + 1
			}
			if b[i] == '\x1b' && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2
			}
		}
		return len(b)
	}
	return upTo(b, 1, '0', '~')
}

// upTo returns the length of b up to the first byte from index i that lies in [lo, hi].
func upTo(b []byte, i int, lo, hi byte) int {
	for ; i < len(b); i++ {
		if lo <= b[i] && b[i] <= hi {
			return i + 1
		}
		if b[i] < ' ' || b[i] > '~' {
			return i // broken off
		}
	}
	return len(b)
}
