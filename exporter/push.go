package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A Pusher writes an image or an index to a registry.
type Pusher interface {
	Push(ctx context.Context, ref string, what remote.Taggable, opt source.PushOptions) error
}

func (x *Exporter) push(ctx context.Context, images []*Image, out Output, names []string) (*ocispec.Descriptor, error) {
	if len(names) == 0 {
		return nil, errors.New("the image has no name to push it under: name one with -t")
	}
	p, err := x.pack(ctx, images, out.Form, false)
	if err != nil {
		return nil, err
	}
	what, err := p.taggable(ctx, x)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		text := "pushing " + reference.Familiar(n)
		err := x.Pusher.Push(ctx, n, what, source.PushOptions{
			Origins: p.origins(), ByDigest: out.ByDigest, Insecure: out.Insecure,
			Progress: func(done, total int64) { x.progress(text, done, total) },
		})
		if err != nil {
			return nil, err
		}
	}
	return &p.desc, nil
}

// taggable returns p as the registry library takes it. Layers are opened, and downloaded, when they are asked for.
func (p *packed) taggable(ctx context.Context, x *Exporter) (remote.Taggable, error) {
	if p.index == nil {
		return p.images[0].image(ctx, x)
	}
	return &lazyIndex{p, ctx, x}, nil
}

func (i *packedImage) image(ctx context.Context, x *Exporter) (v1.Image, error) {
	return partial.CompressedToImage(&lazyImage{i, ctx, x})
}

// A lazyIndex implements v1.ImageIndex. It holds a context since the interface has no place for one; it lives
// as long as one push.
type lazyIndex struct {
	*packed
	ctx context.Context
	x   *Exporter
}

func (i *lazyIndex) MediaType() (types.MediaType, error) {
	return types.MediaType(i.desc.MediaType), nil
}
func (i *lazyIndex) Digest() (v1.Hash, error)     { return v1.NewHash(string(i.desc.Digest)) }
func (i *lazyIndex) Size() (int64, error)         { return i.desc.Size, nil }
func (i *lazyIndex) RawManifest() ([]byte, error) { return i.index, nil }
func (i *lazyIndex) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(i.index))
}
func (i *lazyIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	return nil, fmt.Errorf("index %s: not in the index", h)
}
func (i *lazyIndex) Image(h v1.Hash) (v1.Image, error) {
	for _, img := range i.images {
		if string(img.desc.Digest) == h.String() {
			return img.image(i.ctx, i.x)
		}
	}
	return nil, fmt.Errorf("image %s: not in the index", h)
}

// A lazyImage implements partial.CompressedImageCore, and lives as a lazyIndex does.
type lazyImage struct {
	*packedImage
	ctx context.Context
	x   *Exporter
}

func (i *lazyImage) RawConfigFile() ([]byte, error) { return i.raw, nil }
func (i *lazyImage) RawManifest() ([]byte, error)   { return i.manifest, nil }
func (i *lazyImage) MediaType() (types.MediaType, error) {
	return types.MediaType(i.desc.MediaType), nil
}
func (i *lazyImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, b := range i.layers {
		if b.Digest.String() == h.String() {
			return &lazyLayer{b, i}, nil
		}
	}
	return nil, fmt.Errorf("layer %s: not in the image", h)
}

type lazyLayer struct {
	b snapshot.Blob
	i *lazyImage
}

func (l *lazyLayer) Digest() (v1.Hash, error)            { return v1.NewHash(l.b.Digest.String()) }
func (l *lazyLayer) Size() (int64, error)                { return l.b.Size, nil }
func (l *lazyLayer) MediaType() (types.MediaType, error) { return types.MediaType(l.b.MediaType), nil }
func (l *lazyLayer) Compressed() (io.ReadCloser, error) {
	if err := l.i.x.Layers.Pull(l.i.ctx, l.b); err != nil {
		return nil, err
	}
	return l.i.x.Disk.VerifiedBlob(l.b.Digest)
}
