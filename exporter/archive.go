package exporter

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// archive writes the tar of an OCI layout. The docker form has a manifest.json more, which is
// what "docker load" reads that does not know the layout.
func (x *Exporter) archive(ctx context.Context, img *Image, out Output, names []string) (*ocispec.Descriptor, error) {
	p, err := x.pack(ctx, img, out.Compression, true)
	if err != nil {
		return nil, err
	}
	files, err := x.layout(img, p, names, out.Type == TypeDocker)
	if err != nil {
		return nil, err
	}
	var total, done int64
	for _, f := range files {
		total += f.size
	}
	err = x.create(ctx, out.Dest, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, f := range files {
			if err := f.write(tw); err != nil {
				return err
			}
			done += f.size
			x.progress("writing "+out.Dest, done, total)
		}
		return tw.Close()
	})
	return &p.desc, err
}

// A member is a file or folder of an archive.
type member struct {
	name string // a folder's ends with a slash
	size int64
	open func() (io.ReadCloser, error)
}

func memberOf(name string, b []byte) member {
	return member{name, int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// write adds the member with a header that depends on name and size alone.
func (m member) write(tw *tar.Writer) error {
	h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Mode: 0o444, Size: m.size, ModTime: time.Unix(0, 0)}
	if strings.HasSuffix(m.name, "/") {
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	}
	if err := tw.WriteHeader(h); err != nil || m.open == nil {
		return err
	}
	r, err := m.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

const blobsDir = "blobs/sha256/"

// layout returns the members of the archive, in order.
func (x *Exporter) layout(img *Image, p *packed, names []string, docker bool) ([]member, error) {
	index, err := json.Marshal(indexOf(p.desc, names))
	if err != nil {
		return nil, err
	}
	version, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	files := []member{
		{name: "blobs/"}, {name: blobsDir},
		memberOf(ocispec.ImageLayoutFile, version),
		memberOf(ocispec.ImageIndexFile, index),
		memberOf(blobsDir+digest.Of(p.raw).Hex(), p.raw),
		memberOf(blobsDir+img.Config.Hex(), p.config),
	}
	for _, b := range p.layers {
		files = append(files, x.blobMember(b))
	}
	if docker {
		m, err := dockerManifest(img, p, names)
		if err != nil {
			return nil, err
		}
		files = append(files, memberOf("manifest.json", m))
	}
	slices.SortFunc(files, func(a, b member) int { return strings.Compare(a.name, b.name) })
	// Equal layers are one blob.
	return slices.CompactFunc(files, func(a, b member) bool { return a.name == b.name }), nil
}

func (x *Exporter) blobMember(b snapshot.Blob) member {
	return member{blobsDir + b.Digest.Hex(), b.Size, func() (io.ReadCloser, error) { return x.Disk.VerifiedBlob(b.Digest) }}
}

// indexOf returns the index of a layout: an entry for each name, or one without a name.
func indexOf(desc ocispec.Descriptor, names []string) ocispec.Index {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, n := range names {
		d := desc
		d.Annotations = map[string]string{annotationName: n}
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			if tagged, ok := named.(reference.Tagged); ok {
				d.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
			}
		}
		index.Manifests = append(index.Manifests, d)
	}
	if len(names) == 0 {
		index.Manifests = []ocispec.Descriptor{desc}
	}
	return index
}

// annotationName is where containerd looks for the whole name of an image in an index.
const annotationName = "io.containerd.image.name"

func dockerManifest(img *Image, p *packed, names []string) ([]byte, error) {
	m := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobsDir + img.Config.Hex(), Layers: []string{}}
	for _, n := range names {
		m.RepoTags = append(m.RepoTags, familiar(n))
	}
	for _, b := range p.layers {
		m.Layers = append(m.Layers, blobsDir+b.Digest.Hex())
	}
	return json.Marshal([]any{m})
}
