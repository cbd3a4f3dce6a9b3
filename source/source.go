// Package source owns the outside world: images of registries and of OCI
// layouts, the names of images in the store, and folders of the host.
//
// Naming a thing (a tag becomes a digest, a folder becomes a content digest) is
// cheap and apart from fetching it, so that a build that is all cached downloads
// nothing. What comes from outside is hostile: digests are verified, sizes are
// bounded, and no answer of a registry decides where a file is written.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// An ImageError says why an image could not be had or sent, and what to do.
type ImageError struct {
	Ref  string // the image as people write it
	Err  error
	Hint string // "" when there is nothing to say
}

func (e *ImageError) Error() string { return e.Ref + ": " + e.Err.Error() }
func (e *ImageError) Unwrap() error { return e.Err }

// Causes of an ImageError that callers tell apart.
var (
	ErrNotFound     = errors.New("not found in the registry")
	ErrUnauthorized = errors.New("the registry refuses access")
	ErrNotInStore   = errors.New("no such image in the store")
	ErrPlatform     = errors.New("no match for platform in manifest")

	errCut = errors.New("the registry cut the connection")
)

// An origin is a place that has manifests and blobs: a repository of a registry, or an OCI layout.
type origin interface {
	// manifest returns the image manifest or index called id, which is a tag or a digest.
	manifest(ctx context.Context, id string) (manifest, error)
	// blob opens a blob. The caller verifies what it reads.
	blob(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	// String returns the origin as snapshot.Blob.Origins records it.
	String() string
}

// A manifest is the bytes of a manifest or index.
type manifest struct {
	raw       []byte
	mediaType string // as the origin says; "" when it does not
}

// Bounds of what is read into memory from outside.
const (
	maxManifest = 8 << 20
	maxConfig   = 8 << 20
)

// readBlob returns the verified bytes of a small blob.
func readBlob(ctx context.Context, o origin, d digest.Digest, size, limit int64) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d that are read of such a thing", d, size, limit)
	}
	r, err := o.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, size+1))
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// The cause stays a text: this says more than what explain makes of cut connections.
		return nil, fmt.Errorf("%s: cut after %d of %d bytes: %v", d, len(b), size, err)
	}
	if int64(len(b)) < size {
		return nil, fmt.Errorf("%s: cut after %d of %d bytes", d, len(b), size)
	}
	return b, verify(d, b)
}

func verify(want digest.Digest, b []byte) error {
	if got := digest.Of(b); got != want {
		return fmt.Errorf("%s: the bytes that came have the digest %s", want, got)
	}
	return nil
}

// Fetch implements snapshot.Fetch: it opens b at the first of its origins that has it.
func (c *Client) Fetch(ctx context.Context, b snapshot.Blob) (io.ReadCloser, error) {
	var first error
	for _, name := range b.Origins {
		o, err := c.origin(ctx, name)
		if err == nil {
			var r io.ReadCloser
			if r, err = o.blob(ctx, b.Digest); err == nil {
				return c.watch(b, r), nil
			}
		}
		if first == nil {
			first = c.explainBlob(name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if first == nil {
		first = fmt.Errorf("blob %s: %w", b.Digest, snapshot.ErrUnavailable)
	}
	return nil, first
}

// explainBlob explains why a layer could not be had from where it once was.
func (c *Client) explainBlob(name string, err error) error {
	err = c.explain(name, err)
	var e *ImageError
	if errors.As(err, &e) && (errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist)) {
		e.Err = fmt.Errorf("it has lost a layer of the image: %w", e.Err)
		e.Hint = "ask for the image again with --pull"
	}
	return err
}

// origin returns the origin that Blob.Origins calls name.
func (c *Client) origin(ctx context.Context, name string) (origin, error) {
	if dir, ok := cutLayout(name); ok {
		return layout{dir}, nil
	}
	return c.repository(name)
}

// watch reports to c.Progress how much of b was read.
func (c *Client) watch(b snapshot.Blob, r io.ReadCloser) io.ReadCloser {
	if c.Progress == nil {
		return r
	}
	return &watched{ReadCloser: r, b: b, report: c.Progress}
}

type watched struct {
	io.ReadCloser
	b      snapshot.Blob
	n      int64
	report func(b snapshot.Blob, done int64)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.n += int64(n)
	w.report(w.b, w.n)
	return n, err
}
