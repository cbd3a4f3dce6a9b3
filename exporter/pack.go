package exporter

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocidigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A packed image has the form that registries and archives carry: a manifest, a config, and layer blobs.
type packed struct {
	raw    []byte             // the manifest
	desc   ocispec.Descriptor // of the manifest
	config []byte
	layers []snapshot.Blob // lowest first
}

// packers is how many layers are compressed or downloaded at once. Compression is parallel in itself; what this
// hides is the reading, and the layers that are too small to be split.
const packers = 4

// pack brings the layers of img into the form of mediaType, gzip when it is "". With here set, layers that are only known to be
// in a registry are downloaded.
func (x *Exporter) pack(ctx context.Context, img *Image, mediaType string, here bool) (*packed, error) {
	chains, err := x.Layers.Chains(img.Chain)
	if err != nil {
		return nil, err
	}
	mediaType = cmp.Or(mediaType, snapshot.MediaTypeTarGzip)
	p := &packed{config: img.raw, layers: make([]snapshot.Blob, len(chains))}
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(packers)
	for i, c := range chains {
		g.Go(func() (err error) {
			if p.layers[i], err = x.Layers.Compressed(ctx, c, mediaType); err == nil && here {
				err = x.Layers.Pull(ctx, p.layers[i])
			}
			if err == nil {
				x.progress(fmt.Sprintf("exporting layers: %d of %d", done.Add(1), len(chains)), 0, 0)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return p, p.manifest(img.Config)
}

// manifest writes the manifest, with the indentation that BuildKit uses: the same blobs give the same digest.
func (p *packed) manifest(config digest.Digest) (err error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    descriptor(ocispec.MediaTypeImageConfig, config, int64(len(p.config))),
		Layers:    make([]ocispec.Descriptor, len(p.layers)),
	}
	for i, b := range p.layers {
		m.Layers[i] = descriptor(b.MediaType, b.Digest, b.Size)
	}
	p.raw, err = json.MarshalIndent(m, "", "  ")
	p.desc = descriptor(m.MediaType, digest.Of(p.raw), int64(len(p.raw)))
	return err
}

func descriptor(mediaType string, d digest.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: ocidigest.Digest(d.String()), Size: size}
}

// origins returns which repositories have the layers.
func (p *packed) origins() map[digest.Digest][]string {
	m := map[digest.Digest][]string{}
	for _, b := range p.layers {
		m[b.Digest] = b.Origins
	}
	return m
}

// image returns p as the registry library takes it. Layers are opened, and downloaded, when they are asked for.
func (p *packed) image(ctx context.Context, x *Exporter) (v1.Image, error) {
	return partial.CompressedToImage(&lazyImage{packed: p, ctx: ctx, x: x})
}

// A lazyImage implements partial.CompressedImageCore. It holds a context since the interface has no place for
// one; it lives as long as one push.
type lazyImage struct {
	*packed
	ctx context.Context
	x   *Exporter
}

func (i *lazyImage) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *lazyImage) RawManifest() ([]byte, error)        { return i.raw, nil }
func (i *lazyImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
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
