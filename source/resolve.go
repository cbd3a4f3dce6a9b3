package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/v1/types"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
)

// A Resolved is an image that a name was found to mean, ready to be built on: its layers are
// known to the snapshot store, though perhaps not downloaded.
type Resolved struct {
	Image
	Chain digest.Digest // of its layers; zero when it has none
	Spec  dockerspec.DockerOCIImage
}

// Resolve finds out what ref means on platform p, whose zero value is that of this machine. ref is the name
// of an image, or oci-layout://DIR[:tag|@digest]. What the store has under the name is taken without asking
// a registry, unless pull is set. No layer is downloaded. An image that is alone under its name stands for every platform;
// its Spec tells which one it is for.
func (m *Images) Resolve(ctx context.Context, ref string, p ocispec.Platform, pull bool) (*Resolved, error) {
	if p.OS == "" {
		p = platforms.DefaultSpec()
	}
	if dir, ok := cutLayout(ref); ok {
		return m.resolveLayout(ctx, ref, dir, p)
	}
	named, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	var stored *Image
	if !pull {
		img, ok, err := m.Get(ref, p)
		if err != nil {
			return nil, err
		}
		if ok {
			if r, err := m.Load(ctx, img); err != nil || r != nil {
				return r, err
			}
			stored = img
		}
	}
	r, err := m.pull(ctx, named, p)
	if err != nil {
		return nil, m.explain(named, p, stored, err)
	}
	r.Name, r.Stored = named.String(), time.Now().UTC()
	return r, m.Put(ctx, &r.Image)
}

// explain says why a registry could not help. stored is what the store has under the name, though not all of it.
func (m *Images) explain(named reference.Reference, p ocispec.Platform, stored *Image, err error) error {
	ref := named.Familiar()
	err = m.client.explain(ref, err)
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrUnauthorized) {
		return err
	}
	var e *ImageError
	if errors.As(err, &e) && stored != nil && stored.Built {
		return &ImageError{ref, e.Err, "it was built here, but the store has lost some of it: build it again"}
	}
	if other, ok, _ := m.Get(ref, ocispec.Platform{}); ok && stored == nil && other.Built {
		return m.client.explain(ref, platformError(p, []string{platforms.Format(other.Platform)}))
	}
	return err
}

// Load returns the image of a record, and holds it, or nil when the store does not have all of it any more.
func (m *Images) Load(ctx context.Context, img *Image) (*Resolved, error) {
	if err := m.disk.Hold(img.Config); err != nil {
		return nil, err
	}
	raw, err := m.disk.ReadBlob(img.Config)
	var damaged *cache.DamagedError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &damaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Resolved{Image: *img}
	spec, err := r.Image.read(raw)
	if err != nil {
		return nil, nil
	}
	r.Spec = *spec
	if r.Chain, err = m.layers.AppendImage(r.Layers); err != nil {
		return nil, err
	}
	usable, err := m.layers.Usable(r.Chain)
	if err != nil || !usable {
		return nil, err
	}
	return r, nil
}

func (m *Images) pull(ctx context.Context, named reference.Reference, p ocispec.Platform) (*Resolved, error) {
	id := named.Tag
	if !named.Digest.IsZero() {
		id = named.Digest.String()
	}
	repo, err := m.client.repository(named.Name())
	if err != nil {
		return nil, err
	}
	return m.fetch(ctx, repo, id, p)
}

func (m *Images) resolveLayout(ctx context.Context, ref, dir string, p ocispec.Platform) (*Resolved, error) {
	l, id, err := parseLayout(dir)
	if err == nil {
		var r *Resolved
		if r, err = m.fetch(ctx, l, id, p); err == nil {
			return r, nil
		}
	}
	return nil, m.client.explain(ref, err)
}

// fetch reads the manifest and the config of an image, and records its layers.
func (m *Images) fetch(ctx context.Context, o origin, id string, p ocispec.Platform) (*Resolved, error) {
	d, man, err := findManifest(ctx, o, id, p)
	if err != nil {
		return nil, err
	}
	r := &Resolved{Image: Image{Manifest: d}}
	raw, err := m.config(ctx, o, man.Config)
	if err != nil {
		return nil, err
	}
	spec, err := r.Image.read(raw)
	if err != nil {
		return nil, err
	}
	r.Spec = *spec
	if !platforms.Only(p).Match(r.Platform) {
		r.Platform = p // there is no other under this name, and many a config is wrong: whoever builds on it is told
	}
	if r.Config, err = m.disk.WriteBlob(raw); err != nil {
		return nil, err
	}
	if len(r.Layers) != len(man.Layers) {
		return nil, fmt.Errorf("its manifest has %d layers, its config %d", len(man.Layers), len(r.Layers))
	}
	for i, l := range man.Layers {
		b, err := blobOf(l, o)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if err := m.layers.AddBlob(ctx, r.Layers[i], b); err != nil {
			return nil, err
		}
	}
	r.Chain, err = m.layers.AppendImage(r.Layers)
	return r, err
}

// config returns the bytes of an image config, from the store when it has them.
func (m *Images) config(ctx context.Context, o origin, desc ocispec.Descriptor) ([]byte, error) {
	switch types.MediaType(desc.MediaType) {
	case types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return nil, fmt.Errorf("its config has the unsupported media type %q: it is not a container image", desc.MediaType)
	}
	d, err := digest.Parse(string(desc.Digest))
	if err != nil {
		return nil, err
	}
	if b, err := m.disk.ReadBlob(d); err == nil {
		return b, nil
	}
	b, err := readBlob(ctx, o, d, desc.Size, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return b, nil
}

// layerTypes are the media types of layers that are read. Docker's have other names for the same bytes; layers
// are known by the OCI one, so that a manifest never mixes both families.
var layerTypes = map[types.MediaType]string{
	types.OCIUncompressedLayer:    snapshot.MediaTypeTar,
	types.OCILayer:                snapshot.MediaTypeTarGzip,
	types.OCILayerZStd:            snapshot.MediaTypeTarZstd,
	types.DockerUncompressedLayer: snapshot.MediaTypeTar,
	types.DockerLayer:             snapshot.MediaTypeTarGzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd": snapshot.MediaTypeTarZstd,
}

func blobOf(l ocispec.Descriptor, o origin) (b snapshot.Blob, err error) {
	b = snapshot.Blob{MediaType: layerTypes[types.MediaType(l.MediaType)], Size: l.Size, Origins: []string{o.String()}}
	if b.MediaType == "" {
		return b, fmt.Errorf("unsupported media type %q", l.MediaType)
	}
	if l.Size < 0 {
		return b, fmt.Errorf("a size of %d bytes", l.Size)
	}
	b.Digest, err = digest.Parse(string(l.Digest))
	return b, err
}

// A document is a manifest or an index: the fields of both.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}

// maxIndexes is how many indexes may lead to a manifest. More than one is rare.
const maxIndexes = 3

// findManifest returns the manifest that id leads to on platform p, and its digest.
func findManifest(ctx context.Context, o origin, id string, p ocispec.Platform) (digest.Digest, *document, error) {
	for range maxIndexes + 1 {
		raw, err := o.manifest(ctx, id)
		if err != nil {
			return digest.Digest{}, nil, err
		}
		if want, err := digest.Parse(id); err == nil {
			if err := verify(want, raw.raw); err != nil {
				return want, nil, fmt.Errorf("manifest %w", err)
			}
		}
		doc, isIndex, err := parseManifest(raw)
		if err != nil || !isIndex {
			return digest.Of(raw.raw), doc, err
		}
		desc, err := pickPlatform(doc.Manifests, p)
		if err != nil {
			return digest.Digest{}, nil, err
		}
		if _, err := digest.Parse(string(desc.Digest)); err != nil {
			return digest.Digest{}, nil, err
		}
		id = string(desc.Digest)
	}
	return digest.Digest{}, nil, fmt.Errorf("more than %d indexes lead to each other", maxIndexes)
}

// parseManifest reads a manifest or an index. What it calls itself counts, not what the registry calls it. One that
// could be read as both is refused: two readers would see two images behind one digest.
func parseManifest(m manifest) (doc *document, isIndex bool, err error) {
	doc = &document{}
	if err := json.Unmarshal(m.raw, doc); err != nil {
		return nil, false, fmt.Errorf("manifest: %w", err)
	}
	mediaType := types.MediaType(cmp.Or(doc.MediaType, m.mediaType))
	if doc.SchemaVersion == 1 || mediaType == types.DockerManifestSchema1 || mediaType == types.DockerManifestSchema1Signed {
		return nil, false, errors.New("its manifest is of schema 1, which registries gave up in 2017: push the image again with a newer tool")
	}
	hasManifests, hasLayers := len(doc.Manifests) > 0, len(doc.Layers) > 0 || doc.Config.Digest != ""
	if hasManifests && hasLayers {
		return nil, false, errors.New("its manifest is an index as well")
	}
	switch mediaType {
	case types.OCIImageIndex, types.DockerManifestList:
		isIndex = true
	case types.OCIManifestSchema1, types.DockerManifestSchema2:
	default:
		if !hasManifests && !hasLayers {
			return nil, false, fmt.Errorf("unsupported media type %q", mediaType)
		}
		isIndex = hasManifests // a server that knows no media types
	}
	if isIndex && hasLayers || !isIndex && hasManifests {
		return nil, false, fmt.Errorf("it is no manifest of type %q", mediaType)
	}
	return doc, isIndex, nil
}

// pickPlatform returns the entry of an index that suits p best.
func pickPlatform(list []ocispec.Descriptor, p ocispec.Platform) (ocispec.Descriptor, error) {
	match := platforms.Only(p)
	var best, unknown *ocispec.Descriptor
	var there []string
	for i := range list {
		d := &list[i]
		switch {
		case d.Platform == nil:
			unknown = cmp.Or(unknown, d)
			continue
		case d.Platform.OS == "unknown": // an attestation
			continue
		}
		there = append(there, platforms.Format(platforms.Normalize(*d.Platform)))
		if match.Match(*d.Platform) && (best == nil || match.Less(*d.Platform, *best.Platform)) {
			best = d
		}
	}
	if best = cmp.Or(best, unknown); best == nil {
		return ocispec.Descriptor{}, platformError(p, there)
	}
	return *best, nil
}

func platformError(want ocispec.Platform, there []string) error {
	slices.Sort(there)
	there = slices.Compact(there)
	if len(there) == 0 {
		there = []string{"none"}
	}
	return fmt.Errorf("%w: want %s, there is %s", ErrPlatform, platforms.Format(want), strings.Join(there, ", "))
}
