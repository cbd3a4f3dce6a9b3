package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/llb/lower"
)

// A call is what --call asks for in place of a build. The zero call is a build.
type call struct {
	run func(a *app, ctx context.Context, p *plan, c call) error
	// json says that the answer is for programs.
	json bool
	// ignoreStatus makes warnings no failure.
	ignoreStatus bool
}

// calls are the values of --call.
var calls = map[string]func(a *app, ctx context.Context, p *plan, c call) error{
	"build":                nil,
	"check":                (*app).callCheck,
	"lint":                 (*app).callCheck, // its name in BuildKit
	"outline":              (*app).callOutline,
	"targets":              (*app).callTargets,
	"subrequests.describe": (*app).callDescribe,
}

// planCall reads --call and --check.
func planCall(p *plan) error {
	text := p.buildOptions.call
	if p.check {
		if text != "" && text != "check" && text != "lint" {
			return usagef("--check is --call=check", "--check and --call %s: only one can be done", text)
		}
		text = "check"
	}
	name, options, _ := strings.Cut(text, ",")
	name = strings.TrimPrefix(name, "frontend.")
	run, ok := calls[name]
	if !ok && name != "" {
		return usagef("it is build, check, outline, targets or subrequests.describe, with ,format=json for programs", "--call %s: no such call", text)
	}
	p.call.run = run
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		var err error
		switch {
		case option == "":
		case key == "format" && (value == "json" || value == "text"):
			p.call.json = value == "json"
		case key == "ignorestatus":
			if p.call.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return usagef("", "--call %s: ignorestatus is true or false", text)
			}
		default:
			return usagef("options are format=json and ignorestatus=true", "--call %s: no such option: %s", text, option)
		}
	}
	return nil
}

// checks reports whether the Dockerfile is only looked at for mistakes.
func (p *plan) checks() bool {
	return p.check || strings.HasPrefix(p.buildOptions.call, "check") || strings.HasPrefix(p.buildOptions.call, "lint")
}

// tell writes an answer: as JSON, or as text writes it.
func (a *app) tell(c call, answer any, text func(w io.Writer) error) error {
	if !c.json {
		return text(a.stdio.out)
	}
	b, err := json.MarshalIndent(answer, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(a.stdio.out, "%s\n", b)
	}
	return err
}

// A location is where something is in the Dockerfile, as BuildKit's protocol has it.
type location struct {
	Ranges []progress.Range `json:"ranges,omitempty"`
}

func newLocation(loc []dfparser.Range) *location {
	if len(loc) == 0 {
		return nil
	}
	out := &location{}
	for _, r := range loc {
		out.Ranges = append(out.Ranges, progress.Range{Start: progress.Position(r.Start), End: progress.Position(r.End)})
	}
	return out
}

// linesOf returns the lines from start to end, or nothing when they are 0.
func linesOf(start, end int) location {
	if start == 0 {
		return location{}
	}
	return location{Ranges: []progress.Range{{Start: progress.Position{Line: start}, End: progress.Position{Line: end}}}}
}

func newSource(name string, data []byte) progress.Source {
	return progress.Source{Filename: name, Data: data, Language: "Dockerfile"}
}

// A target is a stage that can be built.
type target struct {
	Name        string    `json:"name,omitempty"`
	Default     bool      `json:"default,omitempty"`
	Description string    `json:"description,omitempty"`
	Base        string    `json:"base,omitempty"`
	Platform    string    `json:"platform,omitempty"`
	Location    *location `json:"location,omitempty"`
}

func (a *app) callTargets(_ context.Context, p *plan, c call) error {
	var list []target
	for i, s := range p.file.Stages {
		list = append(list, target{s.Name, i == len(p.file.Stages)-1, s.DocComment, s.BaseName, s.Platform, newLocation(s.Location)})
	}
	answer := struct {
		Targets []target `json:"targets"`
		Sources [][]byte `json:"sources"`
	}{list, [][]byte{p.file.Source}}
	return a.tell(c, answer, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
		fmt.Fprint(t, "TARGET\tDESCRIPTION\n")
		for _, x := range list {
			name := x.Name
			if x.Default {
				name = strings.TrimSpace(name + " (default)")
			}
			fmt.Fprintf(t, "%s\t%s\n", name, x.Description)
		}
		return t.Flush()
	})
}

type (
	outlineArg struct {
		Name        string    `json:"name"`
		Description string    `json:"description,omitempty"`
		Value       string    `json:"value,omitempty"`
		Location    *location `json:"location,omitempty"`
	}
	outlineMount struct {
		Name     string    `json:"name"`
		Required bool      `json:"required,omitempty"`
		Location *location `json:"location,omitempty"`
	}
	outline struct {
		Name        string         `json:"name,omitempty"`
		Description string         `json:"description,omitempty"`
		Args        []outlineArg   `json:"args,omitempty"`
		Secrets     []outlineMount `json:"secrets,omitempty"`
		SSH         []outlineMount `json:"ssh,omitempty"`
		Sources     [][]byte       `json:"sources,omitempty"`
	}
)

func (a *app) callOutline(ctx context.Context, p *plan, c call) error {
	opt, err := a.lowerOptions(p)
	if err != nil {
		return err
	}
	o, err := lower.OutlineOf(ctx, p.file, opt)
	if err != nil {
		return err
	}
	out := outline{Name: o.Name, Description: o.Description, Sources: [][]byte{p.file.Source}}
	for _, x := range o.Args {
		out.Args = append(out.Args, outlineArg{x.Name, x.Description, x.Value, newLocation(x.Location)})
	}
	mounts := func(list []lower.OutlineMount) (out []outlineMount) {
		for _, x := range list {
			out = append(out, outlineMount{x.Name, x.Required, newLocation(x.Location)})
		}
		return out
	}
	out.Secrets, out.SSH = mounts(o.Secrets), mounts(o.SSHAgents)
	return a.tell(c, out, out.print)
}

// print writes the outline as tables.
func (o *outline) print(w io.Writer) error {
	table := func(padding int, head string, rows ...string) error {
		if len(rows) == 0 {
			return nil
		}
		t := tabwriter.NewWriter(w, 0, 0, padding, ' ', 0)
		fmt.Fprintf(t, "%s%s\n", head, strings.Join(rows, ""))
		return t.Flush()
	}
	var title, args, secrets, agents []string
	if o.Name != "" || o.Description != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		title = append(title, "TARGET:\t"+name+"\n")
		if o.Description != "" {
			title = append(title, "DESCRIPTION:\t"+o.Description+"\n")
		}
	}
	for _, x := range o.Args {
		args = append(args, fmt.Sprintf("%s\t%s\t%s\n", x.Name, x.Value, x.Description))
	}
	mounts := func(list []outlineMount) (rows []string) {
		for _, x := range list {
			required := ""
			if x.Required {
				required = "true"
			}
			rows = append(rows, x.Name+"\t"+required+"\n")
		}
		return rows
	}
	secrets, agents = mounts(o.Secrets), mounts(o.SSH)
	return errors.Join(
		table(1, "", title...),
		table(3, "BUILD ARG\tVALUE\tDESCRIPTION\n", args...),
		table(3, "SECRET\tREQUIRED\n", secrets...),
		table(3, "SSH\tREQUIRED\n", agents...),
	)
}

// A request is a call as BuildKit describes it.
type request struct {
	Name        string     `json:"name"`
	Version     string     `json:"version"`
	Type        string     `json:"type"`
	Description string     `json:"description"`
	Opts        []namedOpt `json:"opts"`
	Inputs      []namedOpt `json:"inputs"`
	Metadata    []namedOpt `json:"metadata"`
	Refs        []namedOpt `json:"refs"`
}

type namedOpt struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// answers are the forms of an answer.
var answers = []namedOpt{{Name: "result.json"}, {Name: "result.txt"}}

// requests are the calls that the Dockerfile language has; lint is not in BuildKit's list either.
var requests = []request{
	{Name: "frontend.outline", Version: "1.0.0", Type: "rpc", Description: "List all parameters current build target supports",
		Opts: []namedOpt{{"target", "Target build stage"}}, Metadata: answers},
	{Name: "frontend.targets", Version: "1.0.0", Type: "rpc", Description: "List all targets current build supports",
		Opts: []namedOpt{}, Metadata: answers},
	{Name: "frontend.subrequests.describe", Version: "1.0.0", Type: "rpc", Description: "List available subrequest types", Metadata: answers},
}

func (a *app) callDescribe(_ context.Context, _ *plan, c call) error {
	return a.tell(c, requests, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
		fmt.Fprint(t, "NAME\tVERSION\tDESCRIPTION\n")
		for _, r := range requests {
			fmt.Fprintf(t, "%s\t%s\t%s\n", strings.TrimPrefix(r.Name, "frontend."), r.Version, r.Description)
		}
		return t.Flush()
	})
}
