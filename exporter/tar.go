package exporter

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/snapshot"
)

// tar writes the root file system as one tar, in the order of its paths. Owners are numbers; names of one file
// stay so.
func (x *Exporter) tar(ctx context.Context, img *Image, out Output) error {
	view, err := x.view(ctx, img)
	if err != nil {
		return err
	}
	return x.create(ctx, out.Dest, func(dst io.Writer) error {
		w := snapshot.NewWriter(dst)
		err := img.files(view, func(e snapshot.Entry) error {
			if e.Type != snapshot.Regular {
				return w.Add(e, nil)
			}
			r, err := view.Open(e)
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

// files calls f for everything in the root file system of img, but the root itself, in order. Second names
// of a file are hard links to its first.
func (img *Image) files(view *snapshot.View, f func(e snapshot.Entry) error) error {
	first := map[string]string{} // inode -> path
	return snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
		if e.Path == "." {
			return true, nil
		}
		e.Opaque = false // what is below it has been merged
		if img.Epoch != nil {
			e.Mtime = img.Epoch.Unix()
		}
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
