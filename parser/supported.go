package parser

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// missing is what the language has and this version has not, a row per
// feature. Support for a feature starts with the removal of its row.
var missing = []feature{
	of("RUN --device", func(c *instructions.RunCommand) bool { return slices.Contains(c.FlagsUsed, "device") }).
		explained("devices are given by CDI, which no part of this version reads; a step without the flag runs everywhere"),
}

// A feature is a part of the language and the test whether an instruction uses it.
type feature struct {
	name string
	used func(instructions.Command) bool
	hint string
}

func (f feature) explained(hint string) feature {
	f.hint = hint
	return f
}

func of[C instructions.Command](name string, used func(C) bool) feature {
	return feature{name: name, used: func(cmd instructions.Command) bool {
		c, ok := cmd.(C)
		return ok && used(c)
	}}
}

// Supports returns an *Error if cmd needs a part of the language that this
// version lacks. Variables hide such needs, so what a File passed at Parse
// may still be refused once they are expanded.
func (f *File) Supports(cmd instructions.Command) error {
	for _, m := range missing {
		if m.used(cmd) {
			start, end := lines(cmd.Location())
			return &Error{File: f.Name, Start: start, End: end, Msg: m.name + " is not supported by this version", Hint: m.hint}
		}
	}
	return nil
}

func (f *File) supported() error {
	for _, stage := range f.Stages {
		for _, cmd := range stage.Commands {
			if err := f.Supports(cmd); err != nil {
				return err
			}
		}
	}
	return nil
}
