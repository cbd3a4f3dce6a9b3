package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// record begins the record of a build, and shows the causes of its steps.
func (a *app) record(p *plan) {
	r := a.newRecorder(p)
	r.Observer = a.display
	if !a.verifies {
		r.Because = func(v *llb.Vertex, c history.Cause) { a.display.Because(v, c.Text, c.Reason != history.FirstBuild) }
	}
	a.recorder = r
}

// newRecorder returns what hears of the keys of a build's steps.
func (a *app) newRecorder(p *plan) *history.Recorder {
	r := history.Open(a.disk).Record(p.subject(), p.roots(), p.noCache, arguments(p.file))
	r.Executor, r.Evicted = a.executor, a.evicted
	a.executor.Selected = r.Selected
	return r
}

// evicted says what became of the result that those keys led to.
func (a *app) evicted(definition, content digest.Digest) (string, bool) {
	for _, key := range []digest.Digest{definition, content} {
		if e, ok := a.disk.Evicted(cache.Key(key)); ok {
			return "evicted " + ago(e.At) + " " + e.Why, true
		}
	}
	return "", false
}

// endRecord keeps the record of the build, which has ended with err. Without it the next one says less. A build that ran what it could
// reuse is no build to compare others with.
func (a *app) endRecord(ctx context.Context, err error) {
	if a.verifies {
		return
	}
	status := history.Done
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		status = history.Canceled
	case err != nil:
		status = history.Failed
	}
	if _, err := a.recorder.Close(status); err != nil {
		a.warn("there is no record of this build: " + err.Error())
	}
}

// subject returns what the build is about.
func (p *plan) subject() history.Subject {
	var names []string
	for _, platform := range p.platforms {
		names = append(names, platforms.Format(platform))
	}
	s := history.Subject{Target: p.target, Platform: strings.Join(names, ","), Tags: p.tags}
	file := p.buildOptions.file
	switch p.kind {
	case contextStdin:
		s.Context = "-"
	case contextGit:
		s.Context = gitContext(p.context).op.Name()
	case contextURL:
		s.Context = (&llb.HTTP{URL: p.context}).Name()
	default:
		s.Context, _ = filepath.Abs(p.context) // a folder that was opened
		if abs, err := filepath.Abs(file); err == nil && file != "-" && parser.Remote(file) != "URL" {
			if file, err = filepath.Rel(s.Context, abs); err != nil {
				file = abs
			}
		}
	}
	if parser.Remote(file) == "URL" {
		file = (&llb.HTTP{URL: file}).Name()
	}
	if s.Dockerfile = file; file == "Dockerfile" {
		s.Dockerfile = ""
	}
	return s
}

// arguments tells which variables an ARG of the Dockerfile declares.
func arguments(f *parser.File) history.Namer {
	names := map[string]bool{}
	add := func(c instructions.Command) {
		if arg, ok := c.(*instructions.ArgCommand); ok {
			for _, kv := range arg.Args {
				names[kv.Key] = true
			}
		}
	}
	for i := range f.MetaArgs {
		add(&f.MetaArgs[i])
	}
	for _, stage := range f.Stages {
		for _, c := range stage.Commands {
			add(c)
		}
	}
	return func(name string) bool { return names[name] }
}
