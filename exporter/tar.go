package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/snapshot"
)

// tar writes the root file systems as one tar, in the order of its paths. Owners are numbers; names of one file
// stay so.
func (x *Exporter) tar(ctx context.Context, images []*Image, out Output) error {
	if len(images) > 1 && !x.splits(out, images) {
		return errors.New("platform-split=false is not supported for a tar of several platforms")
	}
	return x.create(ctx, out.Dest, func(dst io.Writer) error {
		w := snapshot.NewWriter(dst)
		err := x.files(ctx, images, out, func(_ *Image, e snapshot.Entry, open opener) error {
			if e.Type != snapshot.Regular {
				return w.Add(e, nil)
			}
			r, err := open()
			if err != nil {
				return err
			}
			defer r.Close()
			return w.Add(e, r)
		})
		if err != nil {
			return err
		}
		_, err = w.Close()
		return err
	})
}

// splits reports whether each platform gets a folder of its own.
func (x *Exporter) splits(out Output, images []*Image) bool {
	if out.Split != nil {
		return *out.Split
	}
	return x.several(images)
}

// platform returns the platform of an image as people write it.
func (img *Image) platform() string { return platforms.FormatAll(img.Spec.Platform) }

// An opener opens the content of a file.
type opener func() (io.ReadCloser, error)

// files calls f for everything in the root file systems of images, but the roots themselves, in order. Second names
// of a file are hard links to its first.
func (x *Exporter) files(ctx context.Context, images []*Image, out Output, f func(img *Image, e snapshot.Entry, open opener) error) error {
	prefix := func(img *Image) string {
		if !x.splits(out, images) {
			return ""
		}
		return strings.ReplaceAll(img.platform(), "/", "_")
	}
	images = slices.SortedFunc(slices.Values(images), func(a, b *Image) int { return cmp.Compare(prefix(a), prefix(b)) })
	for _, img := range images {
		view, err := x.view(ctx, img)
		if err != nil {
			return err
		}
		dir := prefix(img)
		if dir != "" {
			if err := f(img, img.dated(snapshot.Entry{Path: dir, Type: snapshot.Dir, Mode: 0o755}), nil); err != nil {
				return err
			}
		}
		err = img.files(view, func(e snapshot.Entry) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			open := func() (io.ReadCloser, error) { return view.Open(e) }
			to := e
			to.Path = path.Join(dir, e.Path)
			if e.Type == snapshot.Hardlink {
				to.Link = path.Join(dir, e.Link)
			}
			return f(img, to, open)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// view returns the root file system of img. Layers that must be downloaded for it are, side by side.
func (x *Exporter) view(ctx context.Context, img *Image) (*snapshot.View, error) {
	chains, err := x.Layers.Chains(img.Chain)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(packers)
	for _, c := range chains {
		g.Go(func() error {
			_, err := x.Layers.TOC(gctx, c.Layer)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return x.Layers.View(ctx, img.Chain)
}

// dated gives e the time that SOURCE_DATE_EPOCH says.
func (img *Image) dated(e snapshot.Entry) snapshot.Entry {
	if img.Epoch != nil {
		e.Mtime = img.Epoch.Unix()
	}
	return e
}

// files calls f for everything in the root file system of img, but the root itself.
func (img *Image) files(view *snapshot.View, f func(e snapshot.Entry) error) error {
	first := map[string]string{} // inode -> path
	return snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
		if e.Path == "." {
			return true, nil
		}
		e.Opaque = false // what is below it has been merged
		e = img.dated(e)
		if e.Inode != "" && e.Type == snapshot.Regular {
			if p, ok := first[e.Inode]; ok {
				e.Type, e.Link = snapshot.Hardlink, p
			} else {
				first[e.Inode] = e.Path
			}
		}
		if err := f(e); err != nil {
			return false, fmt.Errorf("%s: %w", e.Path, err)
		}
		return true, nil
	})
}
