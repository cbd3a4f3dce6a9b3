package parser

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
)

// An Error is something wrong with a Dockerfile or an ignore file, and where.
type Error struct {
	File string
	// Start and End are the lines at fault, counted from 1, both inclusive; 0 if
	// no line is.
	Start, End int
	// Msg is the cause.
	Msg string
	// Hint says what to do about it; it may be empty.
	Hint string
	// Err is the error behind Msg, if there is one.
	Err error

	syntax bool // the text is no Dockerfile: said as BuildKit says it
}

func (e *Error) Error() string {
	switch {
	case e.syntax && e.Start > 0:
		return fmt.Sprintf("dockerfile parse error on line %d: %s", e.Start, e.Msg)
	case e.Start > 0:
		return fmt.Sprintf("%s:%d: %s", e.File, e.Start, e.Msg)
	case e.File != "":
		return e.File + ": " + e.Msg
	}
	return e.Msg
}

func (e *Error) Unwrap() error { return e.Err }

// Excerpt returns the lines at fault with those around them, or "" if no line is.
func (e *Error) Excerpt(source []byte) string { return Excerpt(e.File, source, e.Start, e.End) }

// Excerpt returns the lines start to end of a file, marked, with the lines
// around them. It returns "" if there is no such line.
func Excerpt(name string, source []byte, start, end int) string {
	text := strings.Split(string(source), "\n")
	if start < 1 || start > len(text) {
		return ""
	}
	end = min(max(start, end), len(text))
	around := 2
	if end > start {
		around = 1 // a long instruction explains itself
	}
	const rule = "--------------------\n"
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n%s", name, start, rule)
	for n := max(start-around, 1); n <= min(end+around, len(text)); n++ {
		mark := "   "
		if n >= start && n <= end {
			mark = ">>>"
		}
		line := fmt.Sprintf(" %3d | %s %s", n, mark, text[n-1])
		b.WriteString(strings.TrimRight(line, " \r") + "\n")
	}
	b.WriteString(rule)
	return b.String()
}

// At gives err the position loc, unless it already has one.
func (f *File) At(loc []dfparser.Range, err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	start, end := lines(loc)
	return &Error{File: f.Name, Start: start, End: end, Msg: err.Error(), Err: err}
}

// syntaxError takes the position out of BuildKit's errors.
func (f *File) syntaxError(err error) *Error {
	e := &Error{File: f.Name, Msg: err.Error(), Err: err, syntax: true}
	var at *dfparser.LocationError
	if errors.As(err, &at) {
		for _, loc := range at.Locations {
			e.Start, e.End = lines(loc)
		}
		e.Msg = at.Error()
		// A line count of 0 comes from a file without any line.
		e.Start, e.End = max(e.Start, 1), max(e.End, 1)
	}
	e.Hint = hintFor(e.Msg)
	var unknown *instructions.UnknownInstructionError
	if errors.As(err, &unknown) && e.Start == 0 {
		e.Start, e.End = unknown.Line, unknown.Line
	}
	return e
}

// choices are the values of flags of which BuildKit's errors only say that they are none.
var choices = []struct{ msg, hint string }{
	{"invalid network mode", "it is default, none or host"},
	{`security "`, "it is sandbox or insecure"},
}

func hintFor(msg string) string {
	for _, c := range choices {
		if strings.HasPrefix(msg, c.msg) {
			return c.hint
		}
	}
	return ""
}

// lines returns the first and last line of loc.
func lines(loc []dfparser.Range) (start, end int) {
	for i, r := range loc {
		if i == 0 || r.Start.Line < start {
			start = r.Start.Line
		}
		end = max(end, r.End.Line)
	}
	return start, end
}
