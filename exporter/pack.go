package exporter

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	ocidigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A packed build has the form that registries and archives carry: a manifest, a config and layer blobs for each image, and an
// index when there are several.
type packed struct {
	images []*packedImage
	index  []byte             // nil for one image
	desc   ocispec.Descriptor // of the index, or else of the manifest
}

type packedImage struct {
	*Image
	manifest []byte
	desc     ocispec.Descriptor // of the manifest
	chains   []*snapshot.Chain  // lowest first
	layers   []snapshot.Blob    // what they are in the form that is asked for
}

// packers is how many layers are compressed or downloaded at once. Compression is parallel in itself; what this
// hides is the reading, and the layers that are too small to be split.
const packers = 4

// pack brings images into a form. With here set, layers that are only known to be in a registry are downloaded.
func (x *Exporter) pack(ctx context.Context, images []*Image, f Form, here bool) (*packed, error) {
	f, err := x.settle(f, x.several(images))
	if err != nil {
		return nil, err
	}
	p := &packed{}
	var total int
	for _, img := range images {
		chains, err := x.Layers.Chains(img.Chain)
		if err != nil {
			return nil, err
		}
		total += len(chains)
		p.images = append(p.images, &packedImage{Image: img, chains: chains, layers: make([]snapshot.Blob, len(chains))})
	}
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(packers)
	for _, img := range p.images {
		for i, c := range img.chains {
			g.Go(func() (err error) {
				if img.layers[i], err = x.Layers.Compressed(ctx, c, f.Compression); err == nil && here {
					err = x.Layers.Pull(ctx, img.layers[i])
				}
				if err == nil {
					x.progress(fmt.Sprintf("exporting layers: %d of %d", done.Add(1), total), 0, 0)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return p, p.describe(f, x.several(images))
}

// compression returns how layers are compressed: with gzip, unless something else is said.
func (f *Form) compression() snapshot.Compression {
	c := f.Compression
	if c.MediaType == "" {
		c.MediaType = snapshot.MediaTypeTarGzip
	}
	return c
}

// settle completes a form, for several images or one, and says what cannot be as it was asked for.
func (x *Exporter) settle(f Form, several bool) (Form, error) {
	f.Compression = f.compression()
	if err := f.CheckAnnotations(several); err != nil {
		return f, err
	}
	why := ""
	switch {
	case f.Compression.MediaType == snapshot.MediaTypeTarZstd:
		why = "layers in zstd"
	case len(f.Annotations) > 0:
		why = "annotations"
	}
	if f.Docker && why != "" {
		x.warn("oci-mediatypes=false: Docker's media types know no %s, those of OCI are written", why)
		f.Docker = false
	}
	return f, nil
}

// describe writes the manifests and the index, with the indentation that BuildKit uses: the same blobs give the same digest.
func (p *packed) describe(f Form, several bool) (err error) {
	index := ocispec.Index{Versioned: version2, MediaType: f.mediaType(ocispec.MediaTypeImageIndex)}
	for _, i := range p.images {
		if err := i.describe(f); err != nil {
			return err
		}
		d := i.desc
		d.Platform = &i.Spec.Platform
		index.Manifests = append(index.Manifests, d)
	}
	if p.desc = p.images[0].desc; !several {
		return nil
	}
	index.Annotations = f.annotations(OnIndex, nil)
	p.index, err = json.MarshalIndent(index, "", "  ")
	p.desc = descriptor(index.MediaType, digest.Of(p.index), len(p.index))
	p.desc.Annotations = f.annotations(OnIndexDescriptor, nil)
	return err
}

var version2 = specs.Versioned{SchemaVersion: 2}

func (i *packedImage) describe(f Form) (err error) {
	m := ocispec.Manifest{
		Versioned:   version2,
		MediaType:   f.mediaType(ocispec.MediaTypeImageManifest),
		Config:      descriptor(f.mediaType(ocispec.MediaTypeImageConfig), i.Config, len(i.raw)),
		Layers:      make([]ocispec.Descriptor, len(i.layers)),
		Annotations: f.annotations(OnManifest, &i.Spec.Platform),
	}
	for n, b := range i.layers {
		m.Layers[n] = descriptor(f.mediaType(b.MediaType), b.Digest, int(b.Size))
	}
	i.manifest, err = json.MarshalIndent(m, "", "  ")
	i.desc = descriptor(m.MediaType, digest.Of(i.manifest), len(i.manifest))
	i.desc.Annotations = f.annotations(OnManifestDescriptor, &i.Spec.Platform)
	return err
}

// dockerTypes are Docker's names for the media types of OCI. zstd has none: it came later.
var dockerTypes = map[string]string{
	ocispec.MediaTypeImageIndex:    "application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest: "application/vnd.docker.distribution.manifest.v2+json",
	ocispec.MediaTypeImageConfig:   "application/vnd.docker.container.image.v1+json",
	snapshot.MediaTypeTar:          "application/vnd.docker.image.rootfs.diff.tar",
	snapshot.MediaTypeTarGzip:      "application/vnd.docker.image.rootfs.diff.tar.gzip",
	snapshot.MediaTypeTarZstd:      "application/vnd.docker.image.rootfs.diff.tar.zstd",
}

func (f *Form) mediaType(oci string) string {
	if f.Docker {
		return dockerTypes[oci]
	}
	return oci
}

func descriptor(mediaType string, d digest.Digest, size int) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: ocidigest.Digest(d.String()), Size: int64(size)}
}

// origins returns which repositories have the layers.
func (p *packed) origins() map[digest.Digest][]string {
	m := map[digest.Digest][]string{}
	for _, i := range p.images {
		for _, b := range i.layers {
			m[b.Digest] = b.Origins
		}
	}
	return m
}
