package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/source"
)

// produce solves the graph and writes the image to its places. Without any place named, that is
// the store; with names, the store gets them too.
func (a *app) produce(ctx context.Context, p *plan) ([]*exporter.Result, error) {
	chain, err := a.solver(p).Solve(ctx, p.lowered.Root)
	a.executor.EndSteps()
	if err != nil {
		return nil, err
	}
	build := exporter.Build{Spec: p.lowered.Config, Chain: chain, Base: p.lowered.BaseLayers}
	image, err := exporter.Finish(a.disk, a.layers, build, p.epoch)
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

func (a *app) pushCommand() *cobra.Command {
	var mode string
	c := &cobra.Command{
		Use:   "push IMAGE",
		Short: "Push an image of the store to the registry its name says",
		Args:  oneImage,
		RunE: func(c *cobra.Command, args []string) error {
			return a.send(c.Context(), mode, args[0], exporter.Output{Type: exporter.TypeRegistry})
		},
	}
	c.Flags().StringVar(&mode, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "how to show progress: auto, tty, plain or quiet")
	return c
}

func (a *app) saveCommand() *cobra.Command {
	var mode, dest, format string
	c := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE",
		Short: "Write an image of the store to an archive",
		Args:  oneImage,
		RunE: func(c *cobra.Command, args []string) error {
			if format != exporter.TypeOCI && format != exporter.TypeDocker {
				return usagef("it is docker or oci", "--format %s: no such format", format)
			}
			out, err := exporter.ParseOutput("type=" + format)
			if err != nil {
				return err
			}
			out.Dest = dest
			return a.send(c.Context(), mode, args[0], out)
		},
	}
	f := c.Flags()
	f.StringVarP(&dest, "output", "o", "-", "the file to write, - for standard output")
	f.StringVar(&format, "format", exporter.TypeDocker, "docker, which docker load and podman load read, or oci, an OCI layout")
	f.StringVar(&mode, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "how to show progress: auto, tty, plain or quiet")
	return c
}

// send exports an image of the store.
func (a *app) send(ctx context.Context, mode, ref string, out exporter.Output) error {
	if err := a.enter(ctx); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	img, err := a.find(ctx, ref)
	if err != nil {
		return err
	}
	done, err := a.show(mode)
	if err != nil {
		return err
	}
	defer done()
	image, err := exporter.Load(a.disk, a.layers, img.Config)
	if err != nil {
		return err
	}
	if img.Name != "" {
		out.Names = []string{img.Name}
	}
	if out.Type == exporter.TypeRegistry && (len(out.Names) == 0 || !isName(ref)) {
		return usagef("give it a name: build -t REGISTRY/NAME:TAG", "%s: only a name says where to push to", ref)
	}
	return a.retryDamaged(func() error {
		_, err := a.export(ctx, image, out)
		return err
	})
}

// isName reports whether ref can be the name of an image, rather than the beginning of an ID.
func isName(ref string) bool {
	_, err := source.Normalize(ref)
	return err == nil
}
