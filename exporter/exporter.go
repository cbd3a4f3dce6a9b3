// Package exporter writes a finished image to one kind of place per file: the
// store, a registry, an archive, a tar of the root file system, a folder.
//
// It triggers no step and makes no layer: it asks the snapshot store for the form
// of a layer that the place needs, which is made then if nobody needed it before.
// A file is there as a whole or not at all, and its bytes depend on the image alone.
package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A Tagger gives an image of the store a name, or none when name is "".
type Tagger interface {
	Tag(ctx context.Context, name string, config digest.Digest) error
}

// A Pusher writes an image to a registry. origins are repositories that have a layer already, by
// the layer's digest.
type Pusher interface {
	Push(ctx context.Context, ref string, img v1.Image, origins map[digest.Digest][]string, progress func(done, total int64)) error
}

// An Exporter writes images of one store. Fields for places that are not used may be nil.
type Exporter struct {
	Disk   *cache.Store
	Layers *snapshot.Store
	Tagger Tagger
	Pusher Pusher
	Stdout io.Writer // where dest "-" leads
	// Progress, when not nil, is told of work that takes time: what it is, how many bytes are done, how many there are,
	// both 0 where bytes are not what is counted.
	// It may be called by several goroutines at once.
	Progress func(text string, current, total int64)
	// Warn, when not nil, is told what a place could not take.
	Warn func(text string)
}

// A Result says what came of an image in a place.
type Result struct {
	Config   digest.Digest       // the image ID
	Manifest *ocispec.Descriptor // nil where the place has none
	Names    []string            // normalised
}

// Export writes img to the place that out names. A nil error promises that all of it is there.
func (x *Exporter) Export(ctx context.Context, img *Image, out Output) (*Result, error) {
	names, err := normalize(out.Names)
	if err != nil {
		return nil, err
	}
	r := &Result{Config: img.Config, Names: names}
	switch out.Type {
	case TypeImage:
		err = x.tag(ctx, img, names)
		if err == nil && out.Push {
			r.Manifest, err = x.push(ctx, img, out, names)
		}
	case TypeRegistry:
		r.Manifest, err = x.push(ctx, img, out, names)
	case TypeOCI, TypeDocker:
		r.Manifest, err = x.archive(ctx, img, out, names)
	case TypeTar:
		err = x.tar(ctx, img, out)
	case TypeLocal:
		err = x.local(ctx, img, out)
	case TypeCacheOnly:
	default:
		err = fmt.Errorf("no exporter of type %q", out.Type)
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) && p.Path == out.Dest {
		err = p.Err // the place is named below
	}
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", out, err)
	}
	return r, nil
}

// Metadata returns what --metadata-file says of r, under the keys of buildx.
func (r *Result) Metadata() map[string]any {
	m := map[string]any{"containerimage.config.digest": r.Config.String()}
	if r.Manifest != nil {
		m["containerimage.digest"] = string(r.Manifest.Digest)
		m["containerimage.descriptor"] = r.Manifest
	}
	if len(r.Names) > 0 {
		m["image.name"] = strings.Join(r.Names, ",")
	}
	return m
}

func normalize(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, fmt.Errorf("image name %q: %w", n, err)
		}
		if _, pinned := named.(reference.Digested); pinned {
			return nil, fmt.Errorf("image name %q: an image cannot be named by a digest", n)
		}
		out = append(out, reference.TagNameOnly(named).String())
	}
	return out, nil
}

// familiar returns a normalised name as people write it.
func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

func (x *Exporter) tag(ctx context.Context, img *Image, names []string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, n := range names {
		if err := x.Tagger.Tag(ctx, n, img.Config); err != nil {
			return err
		}
	}
	return nil
}

func (x *Exporter) push(ctx context.Context, img *Image, out Output, names []string) (*ocispec.Descriptor, error) {
	if len(names) == 0 {
		return nil, errors.New("the image has no name to push it under: name one with -t")
	}
	p, err := x.pack(ctx, img, out.Compression, false)
	if err != nil {
		return nil, err
	}
	remote, err := p.image(ctx, x)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		text := "pushing " + familiar(n)
		err := x.Pusher.Push(ctx, n, remote, p.origins(), func(done, total int64) { x.progress(text, done, total) })
		if err != nil {
			return nil, err
		}
	}
	return &p.desc, nil
}

func (x *Exporter) progress(text string, current, total int64) {
	if x.Progress != nil {
		x.Progress(text, current, total)
	}
}

func (x *Exporter) warn(format string, args ...any) {
	if x.Warn != nil {
		x.Warn(fmt.Sprintf(format, args...))
	}
}
