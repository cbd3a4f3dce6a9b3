// Package exporter writes a finished build to one kind of place per file: the
// store, a registry, an archive, a tar of the root file system, a folder.
//
// It triggers no step and makes no layer: it asks the snapshot store for the form
// of a layer that the place needs, which is made then if nobody needed it before.
// A file is there as a whole or not at all, and its bytes depend on the images alone.
package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	ocidigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
)

// A Tagger gives images of the store, one for each platform, a name; none when name is "".
type Tagger interface {
	Tag(ctx context.Context, name string, configs ...digest.Digest) error
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
	// Index treats one image as one of several: places that know indexes get one over it, others a folder for its platform.
	Index bool
}

// several reports whether images are written as those of several platforms.
func (x *Exporter) several(images []*Image) bool { return x.Index || len(images) > 1 }

// A Result says what came of a build in a place.
type Result struct {
	Configs  []digest.Digest     // the image IDs, one for each platform
	Manifest *ocispec.Descriptor // of the manifest, or of the index over several; nil where the place has none
	Names    []string            // normalised
}

// Export writes images, one for each platform of a build, to the place that out names. A nil error promises that all
// of it is there.
func (x *Exporter) Export(ctx context.Context, images []*Image, out Output) (*Result, error) {
	names, err := normalize(out.Names)
	if err != nil {
		return nil, err
	}
	if out.Form.Clamp {
		if images, err = x.clamp(ctx, images); err != nil {
			return nil, err
		}
	}
	r := &Result{Names: names}
	for _, img := range images {
		r.Configs = append(r.Configs, img.Config)
	}
	if err := x.to(ctx, images, out, r); err != nil {
		if p := (*fs.PathError)(nil); errors.As(err, &p) && p.Path == out.Dest {
			err = p.Err // the place is named here
		}
		return nil, fmt.Errorf("export to %s: %w", out, err)
	}
	return r, nil
}

// to writes images to a place and notes their manifest.
func (x *Exporter) to(ctx context.Context, images []*Image, out Output, r *Result) (err error) {
	if out.Pushes() {
		if r.Manifest, err = x.push(ctx, images, out, r.Names); err != nil {
			return err
		}
	}
	switch out.Type {
	case TypeImage:
		if out.NoStore {
			return nil
		}
		return x.tag(ctx, out, r)
	case TypeOCI, TypeDocker:
		r.Manifest, err = x.layout(ctx, images, out, r.Names)
	case TypeTar:
		err = x.tar(ctx, images, out)
	case TypeLocal:
		err = x.local(ctx, images, out)
	case TypeRegistry, TypeCacheOnly:
	default:
		err = fmt.Errorf("no exporter of type %q", out.Type)
	}
	return err
}

// Metadata returns what --metadata-file says of r, under the keys of buildx.
func (r *Result) Metadata() map[string]any {
	m := map[string]any{}
	if len(r.Configs) == 1 && (r.Manifest == nil || !types.MediaType(r.Manifest.MediaType).IsIndex()) {
		m["containerimage.config.digest"] = r.Configs[0].String()
	}
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
		named, err := reference.Parse(n)
		if err != nil {
			return nil, fmt.Errorf("image name %q: %w", n, err)
		}
		if !named.Digest.IsZero() {
			return nil, fmt.Errorf("image name %q: an image cannot be named by a digest", n)
		}
		out = append(out, named.Tagged().String())
	}
	return out, nil
}

// tag keeps images in the store: under the names that they have in registries, if they were pushed by digest, or else
// under those that were given.
func (x *Exporter) tag(ctx context.Context, out Output, r *Result) error {
	names := r.Names
	if out.ByDigest {
		names = nil
	}
	if out.Canonical {
		for _, n := range r.Names {
			names = append(names, withDigest(n, r.Manifest.Digest))
		}
	}
	if len(names) == 0 {
		names = []string{""}
	}
	for _, n := range names {
		if err := x.Tagger.Tag(ctx, n, r.Configs...); err != nil {
			return err
		}
	}
	return nil
}

// withDigest puts a digest in the place of the tag of a normalised name.
func withDigest(name string, d ocidigest.Digest) string {
	named, err := reference.Parse(name)
	if err != nil {
		return name
	}
	return named.Name() + "@" + string(d)
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
