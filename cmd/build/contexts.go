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

	"github.com/seed0570efb0/build/llb/lower"
	"github.com/seed0570efb0/build/parser"
	"github.com/seed0570efb0/build/source"
)

// checkContext checks the PATH of a build.
func checkContext(path string) error {
	switch kind := parser.Remote(path); {
	case path == "-":
		return usagef("name a folder", "a context on standard input is not supported by this version")
	case kind != "":
		return usagef("check it out, and name the folder", "a context at a %s is not supported by this version", kind)
	}
	if fi, err := os.Stat(path); err != nil {
		return &usageError{fmt.Errorf("context %s: %w", path, err.(*fs.PathError).Err), ""}
	} else if !fi.IsDir() {
		return usagef("the context is a folder; name the Dockerfile with -f", "context %s: not a directory", path)
	}
	return nil
}

// readDockerfile reads and parses the Dockerfile. Without -f, one called "dockerfile" will do too.
func (a *app) readDockerfile(p *plan) error {
	path := p.buildOptions.file
	switch path {
	case "-":
		return usagef("write it to a file", "a Dockerfile on standard input is not supported by this version")
	case "":
		path = filepath.Join(p.context, "Dockerfile")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if lower := filepath.Join(p.context, "dockerfile"); exists(lower) {
				path = lower
			}
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return usagef("name it with -f", "failed to read dockerfile: %w", err)
	}
	p.buildOptions.file = path
	a.dockerfile = data
	p.file, err = parser.Parse(filepath.Base(path), data)
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// planIgnore reads the ignore patterns: those beside the Dockerfile under its name take the place of the context's.
func planIgnore(p *plan) (err error) {
	p.ignore, err = readIgnore(p.buildOptions.file+".dockerignore", filepath.Join(p.context, ".dockerignore"))
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
	index := source.OpenStatIndex(a.disk, abs)
	t, err := source.NewLocal(abs, ignore, index)
	if err != nil {
		return &usageError{err: fileError(err)}
	}
	p.index = append(p.index, index)
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
		switch ref, isImage := strings.CutPrefix(value, "docker-image://"); {
		case isImage, strings.HasPrefix(value, "oci-layout://"):
			out[name] = lower.Context{Image: func(ctx context.Context, platform ocispec.Platform) (*lower.Image, error) {
				return a.resolve(ctx, ref, platform, p.pull)
			}}
		case parser.Remote(value) != "":
			return nil, usagef("check it out, and name the folder", "--build-context %s: a %s is not supported by this version", text, parser.Remote(value))
		default:
			ignore, err := readIgnore(filepath.Join(value, ".dockerignore"))
			if err != nil {
				return nil, err
			}
			local := "context:" + name
			if err := a.local(p, local, value, ignore); err != nil {
				return nil, err
			}
			out[name] = lower.Context{Local: local, Exclude: ignore}
		}
	}
	return out, nil
}

// resolve finds out what an image is, without its layers.
func (a *app) resolve(ctx context.Context, ref string, p ocispec.Platform, pull bool) (*lower.Image, error) {
	r, err := a.images.Resolve(ctx, ref, p, pull)
	if err != nil {
		return nil, err
	}
	return &lower.Image{Ref: r.Pinned(), Layers: r.Layers, Config: r.Spec}, nil
}
