package parser

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// missing is what the language has and this version has not, a row per
// feature. Support for a feature starts with the removal of its row.
var missing = []feature{
	of("RUN --device", func(c *instructions.RunCommand) bool { return slices.Contains(c.FlagsUsed, "device") }),
	of("RUN --security=insecure", func(c *instructions.RunCommand) bool {
		return instructions.GetSecurity(c) == instructions.SecurityInsecure
	}),

	of("COPY --link", func(c *instructions.CopyCommand) bool { return c.Link }),
	of("COPY --parents", func(c *instructions.CopyCommand) bool { return c.Parents }),
	of("COPY --exclude", func(c *instructions.CopyCommand) bool { return len(c.ExcludePatterns) > 0 }),
	of("COPY with a symbolic --chmod", func(c *instructions.CopyCommand) bool { return symbolic(c.Chmod) }),

	of("ADD --link", func(c *instructions.AddCommand) bool { return c.Link }),
	of("ADD --exclude", func(c *instructions.AddCommand) bool { return len(c.ExcludePatterns) > 0 }),
	of("ADD with a symbolic --chmod", func(c *instructions.AddCommand) bool { return symbolic(c.Chmod) }),
}

// A feature is a part of the language and the test whether an instruction uses it.
type feature struct {
	name string
	used func(instructions.Command) bool
}

func of[C instructions.Command](name string, used func(C) bool) feature {
	return feature{name, func(cmd instructions.Command) bool {
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
			return f.At(cmd.Location(), fmt.Errorf("%s is not supported by this version", m.name))
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

// symbolic tells "u+x" from a number, right or wrong; a variable is neither yet.
func symbolic(chmod string) bool { return chmod != "" && strings.ContainsAny(chmod[:1], "ugoa+-=") }
