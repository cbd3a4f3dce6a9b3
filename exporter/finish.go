package exporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocidigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A Build is what a build hands over when its last step is done.
type Build struct {
	// Spec is the config but for RootFS, Created, and the times of new history entries: an entry
	// without a time is new, one with a time came with the base image.
	Spec  dockerspec.DockerOCIImage
	Chain digest.Digest // the root file system
	Base  int           // how many of its layers came with the base image
}

// An Image is a finished image. Its config is a blob of the store.
type Image struct {
	Config digest.Digest // the image ID
	Spec   dockerspec.DockerOCIImage
	Chain  digest.Digest
	// Epoch, when not nil, is the time that the files of a flattened image get.
	Epoch *time.Time

	raw   []byte // the config
	build Build  // what Finish was called with
}

// Finish completes the config of a build and stores it. Layers give the history its times. epoch, which may
// be nil, is SOURCE_DATE_EPOCH: the time of all that is new.
func Finish(disk *cache.Store, layers *snapshot.Store, b Build, epoch *time.Time) (*Image, error) {
	if b.Spec.OS == "" || b.Spec.Architecture == "" {
		return nil, errors.New("image config: it names no platform")
	}
	chains, err := layers.Chains(b.Chain)
	if err != nil {
		return nil, err
	}
	spec := b.Spec
	spec.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []ocidigest.Digest{}}
	times := make([]time.Time, len(chains))
	for i, c := range chains {
		spec.RootFS.DiffIDs = append(spec.RootFS.DiffIDs, ocidigest.Digest(c.Layer.String()))
		if i >= b.Base {
			times[i] = c.Created
		}
	}
	spec.History = completeHistory(spec.History, times, epoch)
	spec.Created = lastTime(spec.History)
	if epoch != nil && spec.Created != nil && spec.Created.After(*epoch) {
		spec.Created = utc(*epoch)
	}
	raw, err := encode(&spec)
	if err != nil {
		return nil, err
	}
	id, err := disk.WriteBlob(raw)
	return &Image{Config: id, Spec: spec, Chain: b.Chain, Epoch: epoch, raw: raw, build: b}, err
}

// clamp returns images in whose layers no file is later than SOURCE_DATE_EPOCH. Layers of base images stay.
func (x *Exporter) clamp(ctx context.Context, images []*Image) ([]*Image, error) {
	var out []*Image
	for _, img := range images {
		if img.Epoch == nil {
			x.warn("rewrite-timestamp has no effect: SOURCE_DATE_EPOCH is not set")
			return images, nil
		}
		b := img.build
		var err error
		if b.Chain, err = x.Layers.Clamp(ctx, b.Chain, b.Base, *img.Epoch); err != nil {
			return nil, err
		}
		img, err := Finish(x.Disk, x.Layers, b, img.Epoch)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// Load returns the image of the store whose config is the blob config.
func Load(disk *cache.Store, layers *snapshot.Store, config digest.Digest) (*Image, error) {
	raw, err := disk.ReadBlob(config)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", config.Short(), err)
	}
	img := &Image{Config: config, raw: raw}
	if err := json.Unmarshal(raw, &img.Spec); err != nil {
		return nil, fmt.Errorf("image %s: config: %w", config.Short(), err)
	}
	var diffs []digest.Digest
	for _, id := range img.Spec.RootFS.DiffIDs {
		d, err := digest.Parse(string(id))
		if err != nil {
			return nil, fmt.Errorf("image %s: config: %w", config.Short(), err)
		}
		diffs = append(diffs, d)
	}
	img.Chain, err = layers.AppendImage(diffs)
	return img, err
}

// completeHistory returns history with one non-empty entry for each layer and a time for every new entry: that of epoch, if there is
// one, and not an earlier one either. When a layer was made says what was in the cache, and is not to be seen in a reproducible image.
// times are those of the layers, zero for layers of the base image.
func completeHistory(history []ocispec.History, times []time.Time, epoch *time.Time) []ocispec.History {
	out := matchLayers(history, len(times))
	first, layer := (*time.Time)(nil), 0
	isNew := make([]bool, len(out))
	for i := range out {
		isNew[i] = out[i].Created == nil
		if out[i].EmptyLayer {
			continue
		}
		if t := times[layer]; isNew[i] && !t.IsZero() {
			out[i].Created = utc(t)
			if first == nil {
				first = out[i].Created
			}
		}
		layer++
	}
	current := first // of the new layer before, or else of the first one, or else the base's
	if current == nil {
		current = lastTime(out)
	}
	for i := range out {
		if !isNew[i] {
			continue
		}
		if out[i].Created != nil {
			current = out[i].Created
		}
		if out[i].Created = current; epoch != nil {
			out[i].Created = utc(*epoch)
		}
	}
	return out
}

// matchLayers returns a copy of history with exactly n entries that are not empty, as readers expect that line them
// up with the layers. A base image whose history is wrong is not worth failing for: entries that have no
// layer become empty, and layers that have no entry get one, below all that is new.
func matchLayers(history []ocispec.History, n int) []ocispec.History {
	out := make([]ocispec.History, 0, len(history))
	layers, base := 0, 0
	for _, h := range history {
		if !h.EmptyLayer {
			h.EmptyLayer = layers == n
		}
		if !h.EmptyLayer {
			layers++
		}
		out = append(out, h)
		if h.Created != nil {
			base = len(out)
		}
	}
	missing := make([]ocispec.History, n-layers)
	for i := range missing {
		missing[i].Comment = "a layer without a history entry"
	}
	return append(out[:base:base], append(missing, out[base:]...)...)
}

func lastTime(history []ocispec.History) (t *time.Time) {
	for _, h := range history {
		if h.Created != nil {
			t = h.Created
		}
	}
	return t
}

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}

// encode returns the config as JSON with its top-level keys in order, as BuildKit writes it.
func encode(spec *dockerspec.DockerOCIImage) ([]byte, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if fields["history"] == nil {
		fields["history"] = json.RawMessage("[]")
	}
	return json.Marshal(fields)
}
