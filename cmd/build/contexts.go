package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/llb/lower"
	"github.com/seed0570efb0/build/parser"
	"github.com/seed0570efb0/build/source"
)

// A contextKind is where the context of a build lies.
type contextKind int

const (
	contextFolder contextKind = iota
	contextStdin              // a Dockerfile or an archive on standard input
	contextGit
	contextURL // a Dockerfile or an archive
)

// planContext looks at the PATH of a build. A folder wins over an address that looks like it.
func planContext(p *plan) error {
	fi, err := os.Stat(p.context)
	switch {
	case p.context == "-":
		p.kind = contextStdin
		if p.buildOptions.file == "-" {
			return usagef("name a folder, or the Dockerfile", "invalid argument: can't use stdin for both build context and dockerfile")
		}
	case err == nil && fi.IsDir():
	case gitContext(p.context) != nil:
		p.kind = contextGit
	case parser.Remote(p.context) == "URL":
		p.kind = contextURL
	case err != nil:
		return &usageError{fmt.Errorf("context %s: %w", p.context, err.(*fs.PathError).Err), meantVerb(p.context)}
	default:
		return usagef("the context is a folder; name the Dockerfile with -f", "context %s: not a directory", p.context)
	}
	return nil
}

// readDockerfile reads the Dockerfile when it is a file here. Without -f, one called "dockerfile" will do too.
func (a *app) readDockerfile(p *plan) error {
	path := p.buildOptions.file
	if p.kind != contextFolder || path == "-" || parser.Remote(path) == "URL" {
		return nil // loadContext does
	}
	if path == "" {
		path = filepath.Join(p.context, "Dockerfile")
	}
	data, err := os.ReadFile(path)
	if lower := filepath.Join(p.context, "dockerfile"); p.buildOptions.file == "" && errors.Is(err, fs.ErrNotExist) && exists(lower) {
		path = lower
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return usagef("name it with -f", "failed to read dockerfile: %w", err)
	}
	p.buildOptions.file = path
	return a.parse(p, filepath.Base(path), data)
}

// parse reads the text of the Dockerfile.
func (a *app) parse(p *plan, name string, data []byte) (err error) {
	a.dockerfile = data
	o := parser.Options{Check: p.args["BUILDKIT_DOCKERFILE_CHECK"], Syntax: p.args["BUILDKIT_SYNTAX"]}
	p.file, err = o.Parse(name, data)
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// planIgnore reads the ignore patterns of a folder: those beside the Dockerfile under its name take the place of
// the context's. What lies elsewhere is taken as it is.
func planIgnore(p *plan) (err error) {
	if p.kind != contextFolder {
		return nil
	}
	paths := []string{filepath.Join(p.context, ".dockerignore")}
	if p.file != nil {
		paths = append([]string{p.buildOptions.file + ".dockerignore"}, paths...)
	}
	p.ignore, err = readIgnore(paths...)
	return err
}

// readIgnore reads the first of these files that is there; without any, nothing is ignored.
func readIgnore(paths ...string) ([]string, error) {
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &usageError{err: fileError(err)}
		}
		return parser.ParseIgnore(path, data)
	}
	return nil, nil
}

// local makes a folder known to the executor under a name.
func (a *app) local(p *plan, name, dir string, ignore []string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	t, err := source.NewLocal(abs, ignore, source.OpenStatIndex(a.disk, abs))
	if err != nil {
		return &usageError{err: fileError(err)}
	}
	p.locals = append(p.locals, t)
	a.executor.Locals[name] = t
	return nil
}

// namedContexts reads --build-context.
func (a *app) namedContexts(p *plan) (map[string]lower.Context, error) {
	out := map[string]lower.Context{}
	for _, text := range p.contexts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, usagef("it looks like base=oci-layout://DIR", "--build-context %s: no NAME=VALUE", text)
		}
		c, err := a.namedContext(p, name, value)
		if err != nil {
			return nil, err
		}
		out[name] = c
	}
	return out, nil
}

// imageSchemes start the value of a --build-context that is an image: as docker writes it, and as podman does too.
var imageSchemes = []string{"docker-image://", "container-image://", "docker://"}

// namedContext reads the value of one --build-context. Nothing of it is fetched.
func (a *app) namedContext(p *plan, name, value string) (lower.Context, error) {
	image := func(ref string) lower.Context {
		return lower.Context{Image: func(ctx context.Context, platform ocispec.Platform) (*lower.Image, error) {
			return a.resolve(ctx, ref, platform, p.repull())
		}}
	}
	for _, scheme := range imageSchemes {
		if ref, ok := strings.CutPrefix(value, scheme); ok && ref == "scratch" {
			return lower.Context{Image: scratchImage}, nil
		} else if ok {
			return image(ref), nil
		}
	}
	for _, scheme := range []string{"target:", "input:"} {
		if strings.HasPrefix(value, scheme) {
			return lower.Context{}, usagef("build that target to a folder or an OCI layout and name it", "--build-context %s=%s: other targets are for docker buildx bake", name, value)
		}
	}
	label := "[context " + name + "] load "
	switch git := gitContext(value); {
	case strings.HasPrefix(value, "oci-layout://"):
		return image(value), nil
	case git != nil:
		if git.err != nil {
			return lower.Context{}, usagef("", "--build-context %s: %w", name, git.err)
		}
		return lower.Context{Source: llb.New(git.op, nil, llb.Meta{Label: label + git.op.Name()})}, nil
	case parser.Remote(value) == "URL":
		op := &llb.HTTP{URL: value, Filename: contextFile}
		return lower.Context{Source: llb.New(op, nil, llb.Meta{Label: label + op.Name()})}, nil
	}
	if fi, err := os.Stat(value); err == nil && !fi.IsDir() {
		return lower.Context{}, usagef("a context is a folder, or docker-image://REF, oci-layout://DIR, a git repository or a URL", "--build-context %s: %s is not a folder", name, value)
	}
	local := "context:" + name
	ignore, err := readIgnore(filepath.Join(value, ".dockerignore"))
	if err == nil {
		err = a.local(p, local, value, ignore)
	}
	if err != nil {
		err = fmt.Errorf("--build-context %s: %w", name, err)
	}
	return lower.Context{Local: local, Exclude: ignore}, err
}

// scratchImage is the image without anything.
func scratchImage(_ context.Context, p ocispec.Platform) (*lower.Image, error) {
	img := &lower.Image{}
	img.Config.Platform = p
	img.Config.RootFS.Type = "layers"
	img.Config.Config.WorkingDir = "/"
	return img, nil
}

// resolve finds out what an image is, without its layers.
func (a *app) resolve(ctx context.Context, ref string, p ocispec.Platform, pull bool) (*lower.Image, error) {
	r, err := a.images.Resolve(ctx, ref, p, pull)
	if err != nil {
		return nil, err
	}
	return &lower.Image{Ref: r.Pinned(), Layers: r.Layers, Config: r.Spec}, nil
}
