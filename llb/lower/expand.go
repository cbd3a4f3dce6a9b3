package lower

import (
	"fmt"
	"maps"
	"slices"
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

func checkWord(word, expanded string) error {
	if len(expanded) > maxWord {
		return fmt.Errorf("%.40q expands to more than %d bytes", word, maxWord)
	}
	return nil
}

// expand expands a word of the instruction at hand.
func (s *stage) expand(word string) (string, error) {
	expanded, unset, err := s.lex.ProcessWord(word, s.env)
	if err != nil {
		return "", err
	}
	s.lintUnset(unset)
	return expanded, checkWord(word, expanded)
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
