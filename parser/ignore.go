package parser

import (
	"bytes"
	"fmt"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// ParseIgnore reads the patterns of an ignore file, cleaned and in order. A nil
// error promises that each of them is well-formed. Errors are of type *Error.
func ParseIgnore(name string, data []byte) ([]string, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{File: name, Msg: err.Error(), Err: err}
	}
	for _, p := range patterns {
		if _, err := patternmatcher.New([]string{p}); err != nil {
			return nil, &Error{File: name, Msg: fmt.Sprintf("pattern %q: %v", p, err), Err: err}
		}
	}
	return patterns, nil
}
