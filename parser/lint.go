package parser

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
)

// A Warning is advice on something that builds, but hardly as meant.
type Warning struct {
	Rule        string // like "StageNameCasing"
	Description string // what the rule is about
	Text        string // what is wrong here
	URL         string // where it is explained; it may be empty
	Start, End  int    // lines; 0 if it is about none
}

func (w Warning) String() string { return linter.LintFormatShort(w.Rule, w.Text, w.Start) }

// A LintError says that "check=error=true" lets no warning pass.
type LintError struct{ Warnings []Warning }

func (e *LintError) Error() string {
	var rules []string
	for _, w := range e.Warnings {
		rules = append(rules, w.Rule)
	}
	slices.Sort(rules)
	return "lint violation found for rules: " + strings.Join(slices.Compact(rules), ", ")
}

// readCheck reads the directive "check", or what is said in its place.
func (f *File) readCheck(instead string) error {
	if instead != "" {
		cfg, err := linter.ParseLintOptions(instead)
		if err != nil {
			return &Error{Msg: fmt.Sprintf("BUILDKIT_DOCKERFILE_CHECK: %v", err), Err: err, Hint: checkHint}
		}
		f.lint = *cfg
		return nil
	}
	value, _, loc, _ := dfparser.ParseDirective("check", f.Source) // also below a line "#!"
	cfg, err := linter.ParseLintOptions(value)
	if err != nil {
		start, end := lines(loc)
		return &Error{File: f.Name, Start: start, End: end, Msg: err.Error(), Err: err, Hint: checkHint}
	}
	f.lint = *cfg
	return nil
}

const checkHint = "it looks like skip=Rule,Rule;error=true;experimental=Rule"

// Linter returns BuildKit's lint rules, those that "check" does not skip. What they find goes to warn.
func (f *File) Linter(warn func(Warning)) *linter.Linter {
	cfg := f.lint
	cfg.Warn = func(rule, description, url, text string, loc []dfparser.Range) {
		start, end := lines(loc)
		warn(Warning{Rule: rule, Description: description, Text: text, URL: url, Start: start, End: end})
	}
	return linter.New(&cfg)
}

// CheckWarnings returns an *Error with a *LintError if there are warnings, of the File or the given ones, and "check" makes
// them errors.
func (f *File) CheckWarnings(more []Warning) error {
	all := slices.Concat(f.Warnings, more)
	if !f.lint.ReturnAsError || len(all) == 0 {
		return nil
	}
	err := &LintError{all}
	return &Error{File: f.Name, Start: all[0].Start, End: all[0].End, Msg: err.Error(), Err: err,
		Hint: "check=error=true makes warnings errors; the directive check=skip=RULE leaves a rule out"}
}
