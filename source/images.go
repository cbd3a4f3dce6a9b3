package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
)

// An Image is an image of the store: its name and what that names. The bytes of its
// config are a blob of the store; its layers are layers of the snapshot store.
type Image struct {
	// Name is the normalised name with its tag or digest, like "docker.io/library/app:1"; "" for an
	// image that was built without a tag.
	Name string `json:"name"`
	// Manifest is the digest of the manifest in the registry it came from; zero for one built here.
	Manifest digest.Digest    `json:"manifest"`
	Config   digest.Digest    `json:"config"` // the image ID
	Layers   []digest.Digest  `json:"layers"` // diff IDs, lowest first
	Platform ocispec.Platform `json:"platform"`
	Created  time.Time        `json:"created"` // as the config says
	Stored   time.Time        `json:"stored"`  // when it came into the store under this name
	Built    bool             `json:"built"`   // here; otherwise it was pulled
}

// Familiar returns the name as people write it, like "app:1".
func (i *Image) Familiar() string { return reference.Familiar(i.Name) }

// Title returns what an image is called in messages: its name, or the beginning of its ID.
func (i *Image) Title() string {
	if i.Name == "" {
		return i.Config.Short()
	}
	return i.Familiar()
}

// Pinned returns the name with the manifest's digest, "" for an image that no registry has.
func (i *Image) Pinned() string {
	if i.Manifest.IsZero() || i.Name == "" {
		return ""
	}
	name, _, _ := strings.Cut(i.Name, "@")
	return name + "@" + i.Manifest.String()
}

// Normalize returns the full form of an image name: "app" is "docker.io/library/app:latest". Of a name with
// tag and digest the digest counts.
func Normalize(ref string) (reference.Reference, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return named, &ImageError{ref, err, "write an image as [HOST/]NAME[:TAG], all but the tag in lower case"}
	}
	if !named.Digest.IsZero() {
		named.Tag = ""
	}
	return named.Tagged(), nil
}

// Images are the names of images in a store. It is safe for concurrent use, by other processes too.
type Images struct {
	disk   *cache.Store
	layers *snapshot.Store
	client *Client
}

// NewImages returns the images of disk, whose layers are in layers. What is not there is asked from client.
func NewImages(disk *cache.Store, layers *snapshot.Store, client *Client) *Images {
	return &Images{disk, layers, client}
}

// A name has one record, a list with one Image for each platform it was pulled or built for. The file is called by
// the digest of the name: names have slashes, and no longest length.
const imagesDir = "images"

func (i *Image) key() string {
	if i.Name == "" {
		return "id " + i.Config.Hex()
	}
	return "name " + i.Name
}

func recordFile(key string) string { return filepath.Join(imagesDir, digest.Of([]byte(key)).Hex()) }

// Read returns the images of a record, which Files has named. One that is missing or damaged is empty.
func (m *Images) Read(file string) ([]*Image, error) {
	b, err := m.disk.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Image
	if json.Unmarshal(b, &list) != nil {
		return nil, nil
	}
	for _, i := range list {
		if i == nil || i.Config.IsZero() || recordFile(i.key()) != file {
			return nil, nil
		}
	}
	return list, nil
}

// Get returns the image called name for a platform, if the store has one. The zero platform is
// that of this machine, or else whichever there is.
func (m *Images) Get(name string, p ocispec.Platform) (*Image, bool, error) {
	named, err := Normalize(name)
	if err != nil {
		return nil, false, err
	}
	list, err := m.Read(recordFile((&Image{Name: named.String()}).key()))
	if err != nil {
		return nil, false, err
	}
	if i := bestPlatform(list, p); i != nil {
		return i, true, nil
	}
	return nil, false, nil
}

func bestPlatform(list []*Image, p ocispec.Platform) (best *Image) {
	any := p.OS == ""
	if any {
		p = platforms.DefaultSpec()
	}
	match := platforms.Only(p)
	for _, i := range list {
		if match.Match(i.Platform) && (best == nil || match.Less(i.Platform, best.Platform)) {
			best = i
		}
	}
	if best == nil && any && len(list) > 0 {
		best = list[0]
	}
	return best
}

// Put records img under its name. A built image takes the name from all that had it; a pulled one takes it
// from built ones and from the one of its platform. Nothing is written when the name means that image already, so
// that it keeps the time when it got the name.
func (m *Images) Put(ctx context.Context, img *Image) error {
	return m.edit(ctx, img, func(list []*Image) []*Image {
		if !img.Built && slices.ContainsFunc(list, img.same) {
			return list
		}
		list = slices.DeleteFunc(list, func(i *Image) bool {
			return img.Built || i.Built || platforms.Format(i.Platform) == platforms.Format(img.Platform)
		})
		return append(list, img)
	})
}

// edit changes the record that img belongs to, alone among all processes.
func (m *Images) edit(ctx context.Context, img *Image, change func(list []*Image) []*Image) error {
	file := recordFile(img.key())
	unlock, err := m.disk.Lock(ctx, file)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := m.Read(file)
	if err != nil {
		return err
	}
	list := change(slices.Clone(old))
	if slices.EqualFunc(old, list, (*Image).same) {
		return nil
	}
	if len(list) == 0 {
		return os.Remove(m.disk.Path(file))
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return m.disk.WriteLasting(file, append(b, '\n'))
}

// same reports whether two records differ in nothing but the time they were made.
func (i *Image) same(o *Image) bool {
	return i.Name == o.Name && i.Manifest == o.Manifest && i.Config == o.Config && i.Built == o.Built &&
		slices.Equal(i.Layers, o.Layers) && platforms.Format(i.Platform) == platforms.Format(o.Platform)
}

// Tag gives the images that were built here, one for each platform, and whose configs are blobs, a name that they take
// from all that had it. Without a name they can be found by their IDs.
func (m *Images) Tag(ctx context.Context, name string, configs ...digest.Digest) error {
	if name != "" {
		named, err := Normalize(name)
		if err != nil {
			return err
		}
		name = named.String()
	}
	var list []*Image
	for _, config := range configs {
		img := &Image{Name: name, Config: config, Built: true, Stored: time.Now().UTC()}
		raw, err := m.disk.ReadBlob(config)
		if err != nil {
			return err
		}
		if _, err := img.read(raw); err != nil {
			return fmt.Errorf("image %s: %w", config.Short(), err)
		}
		if list = append(list, img); name == "" {
			if err := m.Put(ctx, img); err != nil {
				return err
			}
		}
	}
	if name == "" {
		return nil
	}
	return m.edit(ctx, list[0], func([]*Image) []*Image { return list })
}

// Platforms returns the images that were built together with img, for one platform each.
func (m *Images) Platforms(img *Image) ([]*Image, error) {
	list, err := m.Read(recordFile(img.key()))
	if err != nil || !img.Built || img.Name == "" {
		return []*Image{img}, err
	}
	return list, nil
}

// read fills in what the config raw says of the image.
func (i *Image) read(raw []byte) (*dockerspec.DockerOCIImage, error) {
	var spec dockerspec.DockerOCIImage
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	i.Layers = nil
	for _, id := range spec.RootFS.DiffIDs {
		d, err := digest.Parse(string(id))
		if err != nil {
			return nil, fmt.Errorf("image config: diff ID: %w", err)
		}
		i.Layers = append(i.Layers, d)
	}
	i.Platform = platforms.Normalize(ocispec.Platform{OS: spec.OS, Architecture: spec.Architecture, Variant: spec.Variant})
	if spec.Created != nil {
		i.Created = *spec.Created
	}
	return &spec, nil
}

// Evict removes an image without a name: nothing leads to it but its ID.
func (m *Images) Evict(trash *cache.Trash, img *Image) error {
	return trash.Take(recordFile(img.key()))
}

// Files are the records of images, relative to the store.
func (m *Images) Files() (names []string, err error) {
	files, err := os.ReadDir(m.disk.Path(imagesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, f := range files {
		names = append(names, filepath.Join(imagesDir, f.Name()))
	}
	return names, err
}

// List returns all images, ordered by name, those without one last.
func (m *Images) List() ([]*Image, error) {
	files, err := m.Files()
	if err != nil {
		return nil, err
	}
	var out []*Image
	for _, f := range files {
		list, err := m.Read(f)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	slices.SortFunc(out, compareImages)
	return out, nil
}

func compareImages(a, b *Image) int {
	if (a.Name == "") != (b.Name == "") {
		return strings.Compare(b.Name, a.Name)
	}
	return strings.Compare(a.Name+"\x00"+platforms.Format(a.Platform)+a.Config.Hex(), b.Name+"\x00"+platforms.Format(b.Platform)+b.Config.Hex())
}
