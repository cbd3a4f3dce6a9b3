package lower

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// An environment holds variables in the order in which they were last set.
type environment struct {
	keys   []string
	values map[string]string
}

func newEnvironment() *environment { return &environment{values: map[string]string{}} }

func (e *environment) clone() *environment {
	return &environment{keys: slices.Clone(e.keys), values: maps.Clone(e.values)}
}

func (e *environment) set(key, value string) {
	if _, ok := e.values[key]; ok {
		e.keys = slices.DeleteFunc(e.keys, func(k string) bool { return k == key })
	}
	e.keys = append(e.keys, key)
	e.values[key] = value
}

func (e *environment) unset(key string) {
	e.keys = slices.DeleteFunc(e.keys, func(k string) bool { return k == key })
	delete(e.values, key)
}

// Get and Keys make an environment a shell.EnvGetter.
func (e *environment) Get(key string) (string, bool) {
	v, ok := e.values[key]
	return v, ok
}

// Keys returns the names of the variables.
func (e *environment) Keys() []string { return e.keys }

// list returns the variables as "KEY=value".
func (e *environment) list() []string {
	list := make([]string, len(e.keys))
	for i, k := range e.keys {
		list[i] = k + "=" + e.values[k]
	}
	return list
}

// maxWord bounds what a word may expand to. Linux takes no longer argument or
// variable (MAX_ARG_STRLEN), and without a bound forty lines that each double
// a variable would take all memory.
const maxWord = 128 << 10

// maxGrowth bounds what variables and ranges of ports add to a Dockerfile, and its history, altogether: many lines can each hold one
// long value.
const maxGrowth = 32 << 20

// maxText bounds what comes together while a text is expanded, before its end is known.
const maxText = 16 << 20

// expandText expands a text. Nothing else hands variables to the lexer.
func (l *lowering) expandText(lex *shell.Lex, text string, env *environment) (shell.ProcessWordResult, error) {
	g := newGauge(text, env)
	expanded, err := lex.ProcessWordWithMatches(text, g)
	if g.full {
		err = fmt.Errorf("%.40q expands to more than %d bytes", text, maxText)
	}
	if err == nil {
		err = l.grow(text, len(expanded.Result)-len(text))
	}
	return expanded, err
}

// expandWord is expandText for a text that is one value.
func (l *lowering) expandWord(lex *shell.Lex, word string, env *environment) (shell.ProcessWordResult, error) {
	expanded, err := l.expandText(lex, word, env)
	if err == nil && len(expanded.Result) > maxWord {
		err = fmt.Errorf("%.40q expands to more than %d bytes", word, maxWord)
	}
	return expanded, err
}

// grow counts what a text has become longer by, and refuses what is too much for one Dockerfile.
func (l *lowering) grow(text string, by int) error {
	if l.grown.Add(int64(max(0, by))) > maxGrowth {
		return fmt.Errorf("%.40q: this Dockerfile expands to more than %d bytes in all", text, maxGrowth)
	}
	return nil
}

// expand expands a word of the instruction at hand.
func (s *stage) expand(word string) (string, error) {
	expanded, err := s.expandWord(s.lex, word, s.env)
	if err != nil {
		return "", err
	}
	s.lintUnset(expanded.Unmatched)
	return expanded.Result, nil
}

// A gauge hands the variables of one text to the lexer, and stops doing so before they make too much of it.
type gauge struct {
	*environment
	made     int                 // how much has come together at most
	subjects map[string]struct{} // variables in which all matches are replaced
	nested   bool                // within a replacement something may be replaced, too
	full     bool
}

// What replaces all matches makes a product of two lengths; every other form of a variable makes no more than a sum. Replacements
// that hold neither a variable nor a quoted character are plain: nothing is replaced within them.
var (
	replaceAll      = compiled(`\$\{([^/{}]+)//`)
	plainReplaceAll = compiled(`\$\{[^/{}]+//[^${}\\/"'\x60]*/[^${}\\"'\x60]*\}`)
)

// compiled returns what compiles an expression when it is first asked for: few Dockerfiles need one.
func compiled(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

func newGauge(text string, env *environment) *gauge {
	g := &gauge{environment: env, made: len(text)}
	if !strings.Contains(text, "//") || !strings.Contains(text, "${") {
		return g
	}
	g.subjects = map[string]struct{}{}
	found := replaceAll().FindAllStringSubmatch(text, -1)
	for _, m := range found {
		g.subjects[m[1]] = struct{}{}
	}
	g.nested = len(found) > 1 && len(found) > len(plainReplaceAll().FindAllString(text, -1))
	return g
}

// Get implements shell.EnvGetter. The lexer asks for a variable after it has read what is to take the place of matches in it.
func (g *gauge) Get(key string) (string, bool) {
	value, ok := g.environment.Get(key)
	grown := len(value)
	if _, product := g.subjects[key]; product {
		grown = (len(value) + 1) * g.made // a match before, after and between all bytes
	}
	if g.full = g.full || g.made+grown > maxText; g.full {
		return "", ok
	}
	if !g.nested {
		grown = len(value) // what stands beside a replacement is not repeated by it
	}
	g.made += grown
	return value, ok
}

// expandAll expands words into a new slice: instructions belong to the File.
func (s *stage) expandAll(words []string) (_ []string, err error) {
	expanded := make([]string, len(words))
	for i, w := range words {
		if expanded[i], err = s.expand(w); err != nil {
			return nil, err
		}
	}
	return expanded, nil
}
