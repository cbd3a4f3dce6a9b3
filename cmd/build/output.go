package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/term"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/solver"
	"github.com/seed0570efb0/build/source"
)

// planOutputs reads -o, --push and --annotation.
func planOutputs(p *plan) error {
	for _, text := range p.buildOptions.outputs {
		spec, err := exporter.ParseOutput(text)
		if err != nil {
			return &usageError{err, "it is a folder, - for a tar, or type=TYPE,KEY=VALUE; TYPE is local, tar, oci, docker, image, registry or cacheonly"}
		}
		if spec.Type == exporter.TypeDocker && p.several() {
			return usagef("use type=oci for several platforms", "output %q: docker exporter does not currently support exporting manifest lists", text)
		}
		p.outputs = append(p.outputs, spec)
	}
	if p.push {
		pushToo(p)
	}
	for i, t := range p.tags {
		named, err := source.Normalize(t)
		if err != nil {
			return usagef("a name looks like registry.example/folder/app:1", "--tag %s: %w", t, err)
		}
		if !named.Digest.IsZero() {
			return usagef("name a tag", "--tag %s: an image cannot be named by a digest", t)
		}
		p.tags[i] = named.String()
	}
	written := map[string]bool{}
	for _, out := range p.outputs {
		if out.Pushes() && len(p.tags) == 0 && len(out.Names) == 0 {
			return usagef("name it with -t", "an image without a name cannot be pushed")
		}
		if err := out.Check(); err != nil {
			return usagef("push it, or write it to an archive with type=oci", "%w", err)
		}
		if out.Dest != "" && out.Dest != os.DevNull && written[out.Dest] {
			return usagef("give each output a place of its own", "two outputs go to %s", out)
		}
		written[out.Dest] = true
	}
	return planAnnotations(p)
}

// pushToo carries out --push: it is for the outputs that are images, or else one more.
func pushToo(p *plan) {
	found := false
	for i := range p.outputs {
		if out := &p.outputs[i]; out.Type == exporter.TypeImage || out.Type == exporter.TypeRegistry {
			out.Push, found = out.Type == exporter.TypeImage, true
		}
	}
	if !found {
		p.outputs = append(p.outputs, exporter.Output{Type: exporter.TypeRegistry})
	}
}

// planAnnotations reads --annotation, and checks that there is something to annotate.
func planAnnotations(p *plan) error {
	var list []exporter.Annotation
	for _, text := range p.buildOptions.annotations {
		more, err := exporter.ParseAnnotations(text)
		if err != nil {
			return usagef("it looks like KEY=VALUE, or index,manifest[linux/amd64]:KEY=VALUE", "--annotation %s: %w", text, err)
		}
		list = append(list, more...)
	}
	packs := false
	for i := range p.outputs {
		out := &p.outputs[i]
		packs = packs || out.Packs()
		out.Form.Annotations = append(list[:len(list):len(list)], out.Form.Annotations...)
		if err := out.Form.CheckAnnotations(p.several()); err != nil && out.Packs() {
			return usagef("build for several platforms, or annotate the manifest", "%w", err)
		}
	}
	if len(list) > 0 && !packs {
		return usagef("push the image, or write it to an archive with -o type=oci,dest=FILE", "--annotation: the store and folders of files keep no annotations")
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

// produce solves the graphs and writes the images to their places. Without any place named, that is
// the store; with names, the store gets them too.
func (a *app) produce(ctx context.Context, p *plan) ([]*exporter.Result, error) {
	s := p.asked
	if p.asked = nil; s == nil { // or what it remembers was not right
		s = a.solver(p)
	}
	s.Executor, s.Observer, s.Expect = p.limited(a.recorder), a.recorder, a.recorder.Expect
	if a.verifies {
		p.verified = a.verify(s)
	}
	a.executor.Targets = p.roots()
	end := a.packWith(ctx, s, p)
	defer end()
	chains, err := s.SolveAll(ctx, p.roots())
	a.executor.EndSteps()
	if err != nil && a.packer != nil && ctx.Err() == nil {
		err = a.packer.Explain(err)
	}
	if err != nil {
		return nil, err
	}
	var images []*exporter.Image
	for i, l := range p.lowered {
		build := exporter.Build{Spec: l.Config, Chain: chains[i], Base: l.BaseLayers}
		image, err := exporter.Finish(a.disk, a.layers, build, l.Epoch)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	outputs := p.outputs
	if len(outputs) == 0 || p.push && len(p.buildOptions.outputs) == 0 {
		outputs = append([]exporter.Output{{Type: exporter.TypeImage}}, outputs...)
	}
	var results []*exporter.Result
	for _, out := range outputs {
		if out.Names == nil {
			out.Names = p.tags
		}
		r, err := a.export(ctx, images, out, p.indexed)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// packWith has layers compressed that the outputs of p need compressed, as s makes or finds them, until end.
func (a *app) packWith(ctx context.Context, s *solver.Solver, p *plan) (end func()) {
	forms := exporter.Compressions(p.outputs)
	if len(forms) == 0 || a.verifies { // what runs to be compared with goes nowhere
		a.packer, a.executor.Packing = nil, nil
		return func() {}
	}
	a.packer = a.layers.NewPacker(ctx, forms...)
	a.executor.Packing = executor.NewPacking(a.packer, p.roots())
	s.Solved = a.executor.Packing.Solved
	return a.packer.Close
}

// export writes images to one place, with an index even over one if index is set, and shows it.
func (a *app) export(ctx context.Context, images []*exporter.Image, out exporter.Output, index bool) (*exporter.Result, error) {
	if out.Dest == "-" {
		if f, ok := a.stdio.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, usagef("redirect it to a file, or name one with dest=", "an archive cannot be written to a terminal")
		}
	}
	step := a.display.Step("exporting to " + out.String())
	x := &exporter.Exporter{
		Disk: a.disk, Layers: a.layers, Tagger: a.images, Pusher: a.client, Stdout: a.stdio.out,
		Progress: step.Status, Warn: a.display.Warn, Index: index,
	}
	var r *exporter.Result
	var err error
	if out.Packs() && a.packer != nil {
		step.Status("exporting layers", 0, 0)
		err = a.packer.Wait()
	}
	if err == nil {
		r, err = x.Export(ctx, images, out)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil && out.Type == exporter.TypeImage && !out.NoStore {
		sayNames(step, r)
	}
	step.Done(err)
	return r, err
}

func sayNames(step *progress.Step, r *exporter.Result) {
	stdout, _ := step.Log()
	for _, id := range r.Configs {
		fmt.Fprintf(stdout, "image %s\n", id)
	}
	for _, name := range r.Names {
		fmt.Fprintf(stdout, "named %s\n", name)
	}
}

// imageID returns what -q and --iidfile say: the ID of the image; of several the digest of the index over them, or,
// where no output has one, all their IDs.
func imageID(results []*exporter.Result) string {
	for _, r := range results {
		if m := r.Manifest; m != nil && types.MediaType(m.MediaType).IsIndex() {
			return string(m.Digest)
		}
	}
	var ids []string
	for _, id := range results[0].Configs {
		ids = append(ids, id.String())
	}
	return strings.Join(ids, "\n")
}

// records writes what -q, --iidfile and --metadata-file ask for.
func (a *app) records(ctx context.Context, p *plan, results []*exporter.Result) error {
	if p.iidFile != "" {
		if err := exporter.WriteFile(ctx, p.iidFile, []byte(imageID(results))); err != nil {
			return fmt.Errorf("--iidfile %s: %w", p.iidFile, err)
		}
	}
	if p.metadataFile != "" {
		all := map[string]any{}
		for _, r := range results {
			maps.Copy(all, r.Metadata())
		}
		if warnings := metadataWarnings(p); len(warnings) > 0 {
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
		fmt.Fprintln(a.stdio.out, imageID(results))
	}
	return nil
}
