package parser

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// missing is what the language has and this version has not, a row per
// feature. Support for a feature starts with the removal of its row.
var missing = []feature{
	of("RUN --device", func(c *instructions.RunCommand) bool { return slices.Contains(c.FlagsUsed, "device") }),

	of("COPY --link", func(c *instructions.CopyCommand) bool { return c.Link }),
	of("COPY --parents", func(c *instructions.CopyCommand) bool { return c.Parents }),
	of("COPY --exclude", func(c *instructions.CopyCommand) bool { return len(c.ExcludePatterns) > 0 }),
	of("COPY with a symbolic --chmod", func(c *instructions.CopyCommand) bool { return symbolic(c.Chmod) }),

	of("ADD --link", func(c *instructions.AddCommand) bool { return c.Link }),
	of("ADD --exclude", func(c *instructions.AddCommand) bool { return len(c.ExcludePatterns) > 0 }),
	of("ADD --checksum", func(c *instructions.AddCommand) bool { return c.Checksum != "" }),
	of("ADD --keep-git-dir", func(c *instructions.AddCommand) bool { return c.KeepGitDir != nil }),
	of("ADD with a symbolic --chmod", func(c *instructions.AddCommand) bool { return symbolic(c.Chmod) }),
	of("ADD of a git ref", func(c *instructions.AddCommand) bool { return fetches(c, "git ref") }),
	of("ADD of a URL", func(c *instructions.AddCommand) bool { return fetches(c, "URL") }),
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

func fetches(c *instructions.AddCommand, kind string) bool {
	return slices.ContainsFunc(c.SourcePaths, func(s string) bool { return Remote(s) == kind })
}

var scpLike = regexp.MustCompile(`^[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:`)

// Remote tells whether a source of COPY or ADD is fetched from elsewhere: it
// returns "URL", "git ref", or "" for a path.
func Remote(source string) string {
	switch {
	case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
		address, _, _ := strings.Cut(source, "#")
		address, _, _ = strings.Cut(address, "?")
		if strings.HasSuffix(address, ".git") {
			return "git ref"
		}
		return "URL"
	case strings.HasPrefix(source, "git://"), strings.HasPrefix(source, "ssh://"), scpLike.MatchString(source):
		return "git ref"
	}
	return ""
}

// symbolic tells "u+x" from a number, right or wrong; a variable is neither yet.
func symbolic(chmod string) bool { return chmod != "" && strings.ContainsAny(chmod[:1], "ugoa+-=") }
