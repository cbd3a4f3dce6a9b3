package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/util/suggest"

	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/llb/lower"
	"github.com/seed0570efb0/build/parser"
)

// A checkWarning is a warning as BuildKit's lint call has it.
type checkWarning struct {
	RuleName    string   `json:"ruleName"`
	Description string   `json:"description,omitempty"`
	URL         string   `json:"url,omitempty"`
	Detail      string   `json:"detail,omitempty"`
	Location    location `json:"location"`
}

// checkResults is the answer of BuildKit's lint call.
type checkResults struct {
	Warnings []checkWarning    `json:"warnings"`
	Sources  []progress.Source `json:"sources"`
	Error    *checkError       `json:"buildError,omitempty"`
}

type checkError struct {
	Message  string   `json:"message"`
	Location location `json:"location"`
}

func (a *app) callCheck(ctx context.Context, p *plan, c call) error {
	opt, err := a.lowerOptions(p)
	if err != nil {
		return err
	}
	warnings, err := lower.Check(ctx, p.file, opt)
	return a.tellCheck(c, p.file.Name, warnings, err)
}

// tellCheck tells what a check has found: warnings, and the error that ended it.
func (a *app) tellCheck(c call, name string, warnings []parser.Warning, failed error) error {
	slices.SortStableFunc(warnings, func(x, y parser.Warning) int { return x.Start - y.Start })
	answer := checkResults{Sources: []progress.Source{newSource(name, a.dockerfile)}, Error: newCheckError(failed)}
	for _, w := range warnings {
		answer.Warnings = append(answer.Warnings, checkWarning{w.Rule, w.Description, w.URL, w.Text, linesOf(w.Start, w.End)})
	}
	err := a.tell(c, answer, func(w io.Writer) error { return a.printCheck(w, name, warnings, failed) })
	switch {
	case err != nil:
		return err
	case failed != nil && !c.json:
		a.exit(failed) // prints it
		return statusError(exitFailed)
	case failed != nil, len(warnings) > 0 && !c.ignoreStatus:
		return statusError(exitFailed)
	}
	return nil
}

func newCheckError(err error) *checkError {
	if err == nil {
		return nil
	}
	out := &checkError{Message: err.Error()}
	var parse *parser.Error
	if errors.As(err, &parse) {
		out.Location = linesOf(parse.Start, parse.End)
		out.Message = strings.TrimPrefix(out.Message, fmt.Sprintf("%s:%d: ", parse.File, parse.Start))
	}
	return out
}

func (a *app) printCheck(w io.Writer, name string, warnings []parser.Warning, failed error) error {
	var b strings.Builder
	switch n := len(warnings); {
	case n == 1:
		b.WriteString("Check complete, 1 warning has been found!\n")
	case n > 1:
		fmt.Fprintf(&b, "Check complete, %d warnings have been found!\n", n)
	case failed == nil:
		b.WriteString("Check complete, no warnings found.\n")
	}
	for _, x := range warnings {
		b.WriteString("\nWARNING: " + x.Rule)
		if x.URL != "" {
			b.WriteString(" - " + x.URL)
		}
		b.WriteString("\n" + x.Text + "\n" + parser.Excerpt(name, a.dockerfile, x.Start, x.End))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// warnAbout shows what there is to say about the Dockerfile, also when that ends the build.
func (a *app) warnAbout(p *plan, err error) {
	warnings := p.warnings()
	var lint *parser.LintError
	if errors.As(err, &lint) {
		warnings = lint.Warnings
	}
	for _, w := range warnings {
		a.display.WarnAbout(p.shown(w))
	}
	for _, text := range misspelt(p) {
		a.display.Warn(text)
	}
}

// warnings returns what was found in the Dockerfile. Platforms mostly have the same: of the later ones it is what is new.
func (p *plan) warnings() []parser.Warning {
	out := slices.Clone(p.file.Warnings)
	for i, l := range p.lowered {
		before := out
		for _, w := range l.Warnings {
			if i == 0 || !slices.Contains(before, w) {
				out = append(out, w)
			}
		}
	}
	return out
}

// shown returns a warning as it is shown, with the place it is about.
func (p *plan) shown(w parser.Warning) progress.Warning {
	out := progress.Warning{Level: 1, Short: []byte(w.String()), Detail: [][]byte{[]byte(w.Description)}, URL: w.URL, Range: linesOf(w.Start, w.End).Ranges}
	if len(out.Range) > 0 {
		source := newSource(p.file.Name, p.file.Source)
		out.Source = &source
	}
	return out
}

// misspelt finds build arguments that the Dockerfile does not declare, but almost. Others are nobody's business: a
// script may give the same ones to all its builds.
func misspelt(p *plan) []string {
	var declared []string
	add := func(args []instructions.KeyValuePairOptional) {
		for _, arg := range args {
			declared = append(declared, arg.Key)
		}
	}
	for _, c := range p.file.MetaArgs {
		add(c.Args)
	}
	for _, s := range p.file.Stages {
		for _, c := range s.Commands {
			if arg, ok := c.(*instructions.ArgCommand); ok {
				add(arg.Args)
			}
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.args)) {
		near, ok := suggest.Search(name, declared, true)
		if ok && near != name && !slices.Contains(declared, name) && !strings.HasPrefix(name, "BUILDKIT_") {
			out = append(out, fmt.Sprintf("--build-arg %s: the Dockerfile has no such ARG (did you mean %s?)", name, near))
		}
	}
	return out
}

// metadataWarnings returns the warnings for the metadata file. As for buildx they are there only on demand.
func metadataWarnings(p *plan) []progress.Warning {
	if on, err := strconv.ParseBool(os.Getenv("BUILDX_METADATA_WARNINGS")); err != nil || !on {
		return nil
	}
	var out []progress.Warning
	for _, w := range p.warnings() {
		out = append(out, p.shown(w))
	}
	return out
}
