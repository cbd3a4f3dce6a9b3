// Package parser turns the text of a Dockerfile into typed stages and
// instructions, each with its position, and reads ignore files.
//
// BuildKit's parser does the reading, so the language is the same to the byte;
// this package gives its errors one shape. Bytes go in, a File or a positioned
// error comes out: it knows nothing of the graph, the network or the disk. What
// the words mean is the business of llb/lower.
package parser

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
)

// A File is a parsed Dockerfile. It must not be modified: one File may be
// lowered many times, for many platforms.
type File struct {
	// Name is how errors call the file.
	Name string
	// Source is the text as it was given to Parse.
	Source []byte
	// Stages holds at least one stage.
	Stages []instructions.Stage
	// MetaArgs are the ARG instructions before the first FROM.
	MetaArgs []instructions.ArgCommand
	// Escape is the escape character: a backslash, or a backtick after "# escape=`".
	Escape rune
	// Directives are the parser directives at the top of the file, in order.
	Directives []dfparser.Directive
	// Warnings is what BuildKit's lint rules have to say about the text.
	Warnings []Warning

	lint linter.Config // as the directive "check" has it
}

// Options are the choices about a Dockerfile that are made outside of it.
type Options struct {
	// Check, unless it is "", takes the place of the directive "check": the argument BUILDKIT_DOCKERFILE_CHECK.
	Check string
	// Syntax, unless it is "", takes the place of the directive "syntax": the argument BUILDKIT_SYNTAX.
	Syntax string
}

// Parse reads a Dockerfile. Errors are of type *Error.
func Parse(name string, data []byte) (*File, error) { return Options{}.Parse(name, data) }

// Parse reads a Dockerfile. Errors are of type *Error.
func (o Options) Parse(name string, data []byte) (*File, error) {
	f := &File{Name: name, Source: data}
	if len(data) == 0 {
		return nil, &Error{File: name, Msg: "the Dockerfile cannot be empty"}
	}
	if err := f.readDirectives(); err != nil {
		return nil, err
	}
	if err := f.checkSyntax(o.Syntax); err != nil {
		return nil, err
	}
	if err := f.readCheck(o.Check); err != nil {
		return nil, err
	}
	lint := f.Linter(func(w Warning) { f.Warnings = append(f.Warnings, w) })
	tree, err := dfparser.Parse(bytes.NewReader(data))
	if err != nil {
		e := f.syntaxError(err)
		if tree != nil { // the next line could not be read, for its length
			e.Start, e.End = e.End+1, e.End+1
		}
		return nil, e
	}
	for _, w := range tree.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			rule := &linter.RuleNoEmptyContinuation
			lint.Run(rule, []dfparser.Range{*w.Location}, rule.Format())
		}
	}
	f.Escape = tree.EscapeToken
	if f.Stages, f.MetaArgs, err = instructions.Parse(tree.AST, lint); err != nil {
		return nil, f.syntaxError(err)
	}
	if len(f.Stages) == 0 {
		return nil, &Error{File: name, Msg: "dockerfile contains no stages to build"}
	}
	return f, nil
}

// Trigger reads an ONBUILD trigger that fires at the position loc, its FROM.
func (f *File) Trigger(text string, loc []dfparser.Range) (instructions.Command, error) {
	fail := func(err error) (instructions.Command, error) {
		e := &Error{File: f.Name, Msg: err.Error(), Err: err}
		e.Start, e.End = lines(loc)
		e.Msg = fmt.Sprintf("ONBUILD %s: %s", firstLine(text), e.Msg)
		return nil, e
	}
	tree, err := dfparser.Parse(strings.NewReader(text))
	if err != nil {
		return fail(err)
	}
	if len(tree.AST.Children) != 1 {
		return fail(errors.New("onbuild trigger should be a single expression"))
	}
	node := tree.AST.Children[0]
	node.StartLine, node.EndLine = lines(loc)
	cmd, err := instructions.ParseCommand(node)
	if err != nil {
		return fail(err)
	}
	return cmd, nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// readDirectives notes the directives and checks those whose errors BuildKit's parser
// would report on the line before.
func (f *File) readDirectives() error {
	fail := func(line int, format string, args ...any) error {
		return &Error{File: f.Name, Start: line, End: line, Msg: fmt.Sprintf(format, args...), syntax: true}
	}
	var p dfparser.DirectiveParser
	text := bytes.TrimPrefix(f.Source, []byte("\xef\xbb\xbf"))
	for n := 1; ; n++ {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		d, err := p.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			return fail(n, "%v", err)
		}
		if d == nil {
			break
		}
		if d.Name == "escape" && d.Value != "`" && d.Value != `\` {
			return fail(n, "invalid escape token '%s' does not match ` or \\", d.Value)
		}
		f.Directives = append(f.Directives, *d)
	}
	return nil
}

// builtIn reports whether ref names the Dockerfile frontend, in any version: what it would do is built in.
func builtIn(ref string) bool {
	name := ref
	if i := strings.IndexAny(ref, ":@"); i >= 0 {
		name = ref[:i]
	}
	switch strings.TrimPrefix(name, "docker.io/") {
	case "docker/dockerfile", "docker/dockerfile-upstream":
		return true
	}
	return ref == "dockerfile.v0"
}

// checkSyntax refuses frontends: there is no way to run one, and building
// something else than what it would have built is worse than an error.
func (f *File) checkSyntax(instead string) error {
	if instead != "" {
		if ref, _, _ := strings.Cut(strings.TrimSpace(instead), " "); !builtIn(ref) {
			return &Error{Msg: fmt.Sprintf("BUILDKIT_SYNTAX=%s is not supported by this version", ref),
				Hint: "only docker/dockerfile is built in"}
		}
		return nil
	}
	ref, _, loc, ok := dfparser.DetectSyntax(f.Source)
	if !ok || builtIn(ref) {
		return nil
	}
	start, end := lines(loc)
	return &Error{File: f.Name, Start: max(start, 1), End: max(end, 1),
		Msg:  fmt.Sprintf("syntax %s is not supported by this version", ref),
		Hint: "only docker/dockerfile is built in; remove the line if the file is an ordinary Dockerfile"}
}
