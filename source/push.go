package source

import (
	"context"
	"errors"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
)

// PushOptions say how something is pushed.
type PushOptions struct {
	// Origins are repositories that have a layer already, by the layer's digest.
	Origins map[digest.Digest][]string
	// ByDigest gives what is pushed no tag.
	ByDigest bool
	// Insecure does without TLS, or without knowing the certificate.
	Insecure bool
	// Progress, when not nil, gets the bytes that are done and the bytes known of.
	Progress func(done, total int64)
}

// Push writes an image or an index to a registry under ref. Layers that the registry has are not sent; those that it has in
// another repository are mounted from there. A nil error promises that the registry has taken all of it.
func (c *Client) Push(ctx context.Context, ref string, what remote.Taggable, opt PushOptions) error {
	named, err := Normalize(ref)
	if err != nil {
		return err
	}
	if !named.Digest.IsZero() {
		return &ImageError{ref, errors.New("cannot be pushed under a digest"), "name a tag"}
	}
	if err := c.push(ctx, named, what, opt); err != nil {
		return c.explain(named.Familiar(), err)
	}
	return nil
}

func (c *Client) push(ctx context.Context, named reference.Reference, what remote.Taggable, opt PushOptions) error {
	to, err := c.pusher(named.Name(), opt.Insecure)
	if err != nil {
		return err
	}
	var ref name.Reference
	if opt.ByDigest {
		h, err := what.(interface{ Digest() (v1.Hash, error) }).Digest()
		if err != nil {
			return err
		}
		ref = to.repo.Digest(h.String())
	} else {
		ref = to.repo.Tag(named.Tag)
	}
	updates := make(chan v1.Update, 64)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for u := range updates {
			if opt.Progress != nil && u.Error == nil {
				opt.Progress(u.Complete, u.Total)
			}
		}
	}()
	err = remote.Push(ref, mountable(what, mounts{named.Domain, to, opt.Origins}),
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(to.transport),
		remote.WithUserAgent(c.userAgent),
		remote.WithRetryBackoff(backoff),
		remote.WithRetryPredicate(transient),
		remote.WithRetryStatusCodes(retriedCodes...),
		remote.WithProgress(updates),
	)
	<-drained
	return err
}

// mountable tells the library which layers the registry has in other repositories.
func mountable(what remote.Taggable, m mounts) remote.Taggable {
	switch w := what.(type) {
	case v1.Image:
		return mountableImage{w, m}
	case v1.ImageIndex:
		return mountableIndex{w, m}
	}
	return what
}

var _ v1.ImageIndex = mountableIndex{}

// mounts are the repositories that layers are in, on a registry and elsewhere.
type mounts struct {
	registry string
	to       *door
	origins  map[digest.Digest][]string
}

// An index is embedded by this name: a field called ImageIndex would hide the method.
type index = v1.ImageIndex

type mountableIndex struct {
	index
	mounts
}

func (m mountableIndex) Image(h v1.Hash) (v1.Image, error) {
	img, err := m.index.Image(h)
	if err != nil {
		return nil, err
	}
	return mountableImage{img, m.mounts}, nil
}

type mountableImage struct {
	v1.Image
	mounts
}

func (m mountableImage) Layers() ([]v1.Layer, error) {
	layers, err := m.Image.Layers()
	for i, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return nil, err
		}
		if repo, ok := m.from(h); ok {
			layers[i] = &remote.MountableLayer{Layer: l, Reference: repo.Digest(h.String())}
		}
	}
	return layers, err
}

func (m mounts) from(h v1.Hash) (name.Repository, bool) {
	d, err := digest.Parse(h.String())
	if err != nil {
		return name.Repository{}, false
	}
	for _, o := range m.origins[d] {
		if host, path, _ := strings.Cut(o, "/"); host == m.registry {
			repo, err := m.to.endpoint.repository(path)
			return repo, err == nil
		}
	}
	return name.Repository{}, false
}
