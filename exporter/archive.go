package exporter

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
)

// layout writes an OCI layout: as a tar, or into a folder. The docker form has a manifest.json more, which is what
// "docker load" reads that does not know the layout.
func (x *Exporter) layout(ctx context.Context, images []*Image, out Output, names []string) (*ocispec.Descriptor, error) {
	docker := out.Type == TypeDocker
	if docker && x.several(images) {
		return nil, errors.New("docker load takes one platform only: use type=oci for several")
	}
	p, err := x.pack(ctx, images, out.Form, true)
	if err != nil {
		return nil, err
	}
	files, err := x.members(p, names, docker)
	if err != nil {
		return nil, err
	}
	var total, done int64
	for _, f := range files {
		total += f.size
	}
	written := func(f member) {
		done += f.size
		x.progress("writing "+out.Dest, done, total)
	}
	if out.Folder {
		return &p.desc, x.writeLayout(ctx, out.Dest, files, indexOf(p.desc, names), written)
	}
	return &p.desc, x.create(ctx, out.Dest, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, f := range files {
			if err := f.write(tw); err != nil {
				return err
			}
			written(f)
		}
		return tw.Close()
	})
}

// A member is a file or folder of a layout.
type member struct {
	name string // a folder's ends with a slash
	size int64
	open func() (io.ReadCloser, error)
}

func memberOf(name string, b []byte) member {
	return member{name, int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func (m member) isDir() bool { return strings.HasSuffix(m.name, "/") }

// write adds the member with a header that depends on name and size alone.
func (m member) write(tw *tar.Writer) error {
	h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Mode: 0o444, Size: m.size, ModTime: time.Unix(0, 0)}
	if m.isDir() {
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	}
	if err := tw.WriteHeader(h); err != nil || m.open == nil {
		return err
	}
	return m.copyTo(tw)
}

func (m member) copyTo(w io.Writer) error {
	r, err := m.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

const (
	blobsDir       = "blobs/sha256/"
	dockerManifest = "manifest.json"
)

// members returns the files of the layout, in order.
func (x *Exporter) members(p *packed, names []string, docker bool) ([]member, error) {
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
	}
	blob := func(b []byte) { files = append(files, memberOf(blobsDir+digest.Of(b).Hex(), b)) }
	if p.index != nil {
		blob(p.index)
	}
	for _, i := range p.images {
		blob(i.manifest)
		blob(i.raw)
		for _, b := range i.layers {
			files = append(files, x.blobMember(b))
		}
	}
	if docker {
		m, err := dockerManifestOf(p.images[0], names)
		if err != nil {
			return nil, err
		}
		files = append(files, memberOf(dockerManifest, m))
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
	index := ocispec.Index{Versioned: version2, MediaType: ocispec.MediaTypeImageIndex}
	for _, n := range names {
		d := desc
		own := map[string]string{annotationName: n}
		if named, err := reference.Parse(n); err == nil && named.Tag != "" {
			own[ocispec.AnnotationRefName] = named.Tag
		}
		d.Annotations = merge(desc.Annotations, own)
		index.Manifests = append(index.Manifests, d)
	}
	if len(names) == 0 {
		index.Manifests = []ocispec.Descriptor{desc}
	}
	return index
}

// annotationName is where containerd looks for the whole name of an image in an index.
const annotationName = "io.containerd.image.name"

func dockerManifestOf(i *packedImage, names []string) ([]byte, error) {
	m := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobsDir + i.Config.Hex(), Layers: []string{}}
	for _, n := range names {
		m.RepoTags = append(m.RepoTags, reference.Familiar(n))
	}
	for _, b := range i.layers {
		m.Layers = append(m.Layers, blobsDir+b.Digest.Hex())
	}
	return json.Marshal([]any{m})
}
