package source

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
)

// Find returns the image that people call ref: by its name, or by the beginning of its ID.
func (m *Images) Find(ref string) (*Image, error) {
	if img, ok, err := m.Get(ref, ocispec.Platform{}); err == nil && ok {
		return img, nil
	}
	list, err := m.withID(ref)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// withID returns the one image whose ID begins so, under all of its names.
func (m *Images) withID(ref string) ([]*Image, error) {
	id := strings.TrimPrefix(ref, "sha256:")
	if id == "" || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, notInStore(ref)
	}
	list, err := m.List()
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(i *Image) bool { return !strings.HasPrefix(i.Config.Hex(), id) })
	if len(list) == 0 {
		return nil, notInStore(ref)
	}
	for _, i := range list {
		if i.Config != list[0].Config {
			return nil, &ImageError{ref, fmt.Errorf("more than one image has an ID that begins so: %s, %s", list[0].Config.Short(), i.Config.Short()), "write more of the ID"}
		}
	}
	return list, nil
}

func notInStore(ref string) error {
	return &ImageError{ref, ErrNotInStore, "build images lists what there is"}
}

// A Removal says what Remove has removed.
type Removal struct {
	Names []string        // as people write them
	IDs   []digest.Digest // of images that have no name any more: the store does not list them
}

// Remove removes the name ref or, when ref is the beginning of an ID, that image under its name, or with all under all of its names. An
// image whose last name goes is gone. Its layers stay as results of steps that builds reuse, until something evicts them.
func (m *Images) Remove(ctx context.Context, ref string, all bool) (*Removal, error) {
	list, err := m.named(ref)
	if err == nil && list == nil {
		if list, err = m.withID(ref); err == nil && !all {
			err = oneName(ref, list)
		}
	}
	if err != nil {
		return nil, err
	}
	r := &Removal{}
	for _, img := range list {
		if err := m.drop(ctx, img, list); err != nil {
			return r, err
		}
		if name := img.Familiar(); img.Name != "" && !slices.Contains(r.Names, name) {
			r.Names = append(r.Names, name)
		}
	}
	r.IDs, err = m.forget(ctx, list)
	return r, err
}

// named returns the images, one for each platform, that have a name, if ref is one.
func (m *Images) named(ref string) ([]*Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return nil, nil
	}
	return m.Read(recordFile((&Image{Name: name.String()}).key()))
}

// oneName refuses an image that has several names.
func oneName(ref string, list []*Image) error {
	var names []string
	for _, i := range list {
		if i.Name != "" {
			names = append(names, i.Familiar())
		}
	}
	if len(names) < 2 {
		return nil
	}
	return &ImageError{ref, fmt.Errorf("it has several names: %s", strings.Join(names, ", ")), "remove the names, or all of them with --force"}
}

// drop removes gone from the record that img belongs to: those of all platforms at once.
func (m *Images) drop(ctx context.Context, img *Image, gone []*Image) error {
	return m.edit(ctx, img, func(list []*Image) []*Image {
		return slices.DeleteFunc(list, func(i *Image) bool {
			return slices.ContainsFunc(gone, func(g *Image) bool { return g.Config == i.Config })
		})
	})
}

// forget removes the records without a name of images that no name leads to any more, and returns their IDs.
func (m *Images) forget(ctx context.Context, removed []*Image) (gone []digest.Digest, err error) {
	left, err := m.List()
	if err != nil {
		return nil, err
	}
	for _, img := range removed {
		if slices.ContainsFunc(left, func(i *Image) bool { return i.Name != "" && i.Config == img.Config }) || slices.Contains(gone, img.Config) {
			continue
		}
		if err := m.drop(ctx, &Image{Config: img.Config}, removed); err != nil {
			return gone, err
		}
		gone = append(gone, img.Config)
	}
	return gone, nil
}
