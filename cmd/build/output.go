package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/term"

	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/source"
)

// planOutputs reads -o and --push.
func planOutputs(p *plan) error {
	for _, text := range p.buildOptions.outputs {
		spec, err := exporter.ParseOutput(text)
		if err != nil {
			return &usageError{err: err}
		}
		p.outputs = append(p.outputs, spec)
	}
	if p.push {
		p.outputs = append(p.outputs, exporter.Output{Type: exporter.TypeRegistry})
	}
	for i, t := range p.tags {
		named, err := source.Normalize(t)
		if err != nil {
			return usagef("a name looks like registry.example/folder/app:1", "--tag %s: %w", t, err)
		}
		p.tags[i] = named.String()
	}
	for _, out := range p.outputs {
		if (out.Type == exporter.TypeRegistry || out.Push) && len(p.tags) == 0 && len(out.Names) == 0 {
			return usagef("name it with -t", "an image without a name cannot be pushed")
		}
	}
	return nil
}

// planRecords checks that what --iidfile and --metadata-file name can be written when the build is done.
func planRecords(p *plan) error {
	for flag, file := range map[string]string{"--iidfile": p.iidFile, "--metadata-file": p.metadataFile} {
		if file == "" {
			continue
		}
		if err := exporter.CheckFile(file); err != nil {
			return usagef("name a file in a folder that is there and that you may write to", "%s %s: %w", flag, file, err)
		}
	}
	return nil
}

// produce solves the graph and writes the image to its places. Without any place named, that is
// the store; with names, the store gets them too.
func (a *app) produce(ctx context.Context, p *plan) ([]*exporter.Result, error) {
	s := a.solver(p)
	s.Executor, s.Observer, s.Expect = p.limited(a.recorder), a.recorder, a.recorder.Expect
	chain, err := s.Solve(ctx, p.lowered.Root)
	a.executor.EndSteps()
	if err != nil {
		return nil, err
	}
	build := exporter.Build{Spec: p.lowered.Config, Chain: chain, Base: p.lowered.BaseLayers}
	image, err := exporter.Finish(a.disk, a.layers, build, p.lowered.Epoch)
	if err != nil {
		return nil, err
	}
	outputs := p.outputs
	if len(outputs) == 0 || p.push && len(outputs) == 1 {
		outputs = append([]exporter.Output{{Type: exporter.TypeImage}}, outputs...)
	}
	var results []*exporter.Result
	for _, out := range outputs {
		if out.Names == nil {
			out.Names = p.tags
		}
		r, err := a.export(ctx, image, out)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// export writes an image to one place, and shows it.
func (a *app) export(ctx context.Context, image *exporter.Image, out exporter.Output) (*exporter.Result, error) {
	if out.Dest == "-" {
		if f, ok := a.stdio.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, usagef("redirect it to a file, or name one with dest=", "an archive cannot be written to a terminal")
		}
	}
	step := a.display.Step("exporting to " + out.String())
	x := &exporter.Exporter{
		Disk: a.disk, Layers: a.layers, Tagger: a.images, Pusher: a.client, Stdout: a.stdio.out,
		Progress: step.Status, Warn: a.display.Warn,
	}
	r, err := x.Export(ctx, image, out)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil && out.Type == exporter.TypeImage {
		sayNames(step, image, out.Names)
	}
	step.Done(err)
	return r, err
}

func sayNames(step *progress.Step, image *exporter.Image, names []string) {
	stdout, _ := step.Log()
	fmt.Fprintf(stdout, "image %s\n", image.Config)
	for _, name := range names {
		fmt.Fprintf(stdout, "named %s\n", name)
	}
}

// records writes what -q, --iidfile and --metadata-file ask for.
func (a *app) records(ctx context.Context, p *plan, results []*exporter.Result) error {
	if p.iidFile != "" {
		if err := exporter.WriteFile(ctx, p.iidFile, []byte(results[0].Config.String())); err != nil {
			return fmt.Errorf("--iidfile %s: %w", p.iidFile, err)
		}
	}
	if p.metadataFile != "" {
		all := map[string]any{}
		for _, r := range results {
			maps.Copy(all, r.Metadata())
		}
		if warnings := a.metadataWarnings(p); len(warnings) > 0 {
			all["buildx.build.warnings"] = warnings
		}
		b, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		if err := exporter.WriteFile(ctx, p.metadataFile, append(b, '\n')); err != nil {
			return fmt.Errorf("--metadata-file %s: %w", p.metadataFile, err)
		}
	}
	if p.quiet && !slices.ContainsFunc(p.outputs, func(o exporter.Output) bool { return o.Dest == "-" }) {
		fmt.Fprintln(a.stdio.out, results[0].Config)
	}
	return nil
}
