package progress

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// The variables that say how the live view looks; they are BuildKit's.
const (
	noColorVariable = "NO_COLOR" // any value but "": no colours at all, see no-color.org
	colorsVariable  = "BUILDKIT_COLORS"
	linesVariable   = "BUILDKIT_TTY_LOG_LINES"
)

// A look is how the live view looks.
type look struct {
	palette palette
	// output is how many lines of a step's output are shown at most.
	output int
}

// A tone is what a colour says.
type tone string

// The tones, by the names that BUILDKIT_COLORS has for them.
const (
	toneRun     tone = "run"
	toneCancel  tone = "cancel"
	toneError   tone = "error"
	toneWarning tone = "warning"
)

// A palette holds the colours of tones, as parameters of the terminal's sequence for colours. The nil palette has none.
type palette map[tone]string

// paint returns text in the colour of t.
func (p palette) paint(t tone, text string) string {
	if p[t] == "" {
		return text
	}
	return "\x1b[" + p[t] + "m" + text + "\x1b[0m"
}

func defaultPalette() palette {
	return palette{toneRun: "34", toneCancel: "33", toneError: "31", toneWarning: "33"}
}

// newLook returns the look that an environment asks for, and what is wrong with it: that counts as not being there.
func newLook(env func(string) string) (l look, wrong []string) {
	l = look{palette: defaultPalette(), output: 6}
	if text := env(linesVariable); text != "" {
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			l.output = n
		} else {
			wrong = append(wrong, fmt.Sprintf("%s=%s is not used: it is a number of lines", linesVariable, text))
		}
	}
	if env(noColorVariable) != "" {
		l.palette = nil
		return l, wrong
	}
	if text := env(colorsVariable); text != "" {
		for entry := range strings.SplitSeq(text, ":") {
			if err := l.palette.set(entry); err != nil {
				wrong = append(wrong, fmt.Sprintf("%q of %s is not used: %v", entry, colorsVariable, err))
			}
		}
	}
	return l, wrong
}

// set reads TONE=COLOUR, a colour being a name or three numbers with commas between them.
func (p palette) set(entry string) error {
	name, value, ok := strings.Cut(strings.ToLower(entry), "=")
	if _, known := p[tone(name)]; !ok || !known {
		return errors.New("it looks like run=blue; run, cancel, error and warning have colours")
	}
	color, err := parseColor(value)
	if err == nil {
		p[tone(name)] = color
	}
	return err
}

// colorNames are the colours of terminals in the order of their numbers.
var colorNames = []string{"black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"}

func parseColor(text string) (string, error) {
	if text == "default" {
		return "39", nil
	}
	for i, name := range colorNames {
		switch text {
		case name:
			return strconv.Itoa(30 + i), nil
		case "light-" + name:
			return strconv.Itoa(90 + i), nil
		}
	}
	parts, err := csvvalue.Fields(text, nil)
	if err != nil || len(parts) != 3 {
		return "", fmt.Errorf("a colour is default, %s, light- and one of these, or three numbers", strings.Join(colorNames, ", "))
	}
	number := 16 // of the first of 6*6*6 colours: terminals know them that do not know all
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return "", fmt.Errorf("%s is not between 0 and 255", part)
		}
		number = 16 + 6*(number-16) + int(n)*6/256
	}
	return "38;5;" + strconv.Itoa(number), nil
}
