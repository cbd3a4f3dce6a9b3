package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/source"
)

func (a *app) pushCommand() *cobra.Command {
	var mode string
	c := &cobra.Command{
		Use:   "push IMAGE",
		Short: "Push an image of the store to the registry its name says",
		Args:  oneImage,

		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.send(c.Context(), mode, args[0], exporter.Output{Type: exporter.TypeRegistry})
		},
	}
	c.Flags().StringVar(&mode, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "the `MODE` of showing progress: auto, tty, plain, rawjson or quiet")
	return c
}

func (a *app) saveCommand() *cobra.Command {
	var mode, dest, format string
	c := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE",
		Short: "Write an image of the store to an archive",
		Args:  oneImage,

		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			if format != exporter.TypeOCI && format != exporter.TypeDocker {
				return usagef("it is docker or oci", "--format %s: no such format", format)
			}
			out, err := exporter.ParseOutput("type=" + format)
			if err != nil {
				return err
			}
			out.Dest = dest
			return a.send(c.Context(), mode, args[0], out)
		},
	}
	f := c.Flags()
	f.StringVarP(&dest, "output", "o", "-", "the `FILE` to write, - for standard output")
	f.StringVar(&format, "format", exporter.TypeDocker, "the `FORMAT`: docker, which docker load and podman load read, or oci, an OCI layout")
	f.StringVar(&mode, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "the `MODE` of showing progress: auto, tty, plain, rawjson or quiet")
	return c
}

// send exports an image of the store.
func (a *app) send(ctx context.Context, mode, ref string, out exporter.Output) error {
	if err := a.enter(ctx); err != nil {
		return err
	}
	img, err := a.stored(ctx, ref)
	if err != nil {
		return err
	}
	done, err := a.show(mode)
	if err != nil {
		return err
	}
	defer done()
	images, err := a.platforms(ref, &img.Image, out)
	if err != nil {
		return err
	}
	if img.Name != "" {
		out.Names = []string{img.Name}
	}
	if out.Type == exporter.TypeRegistry && (len(out.Names) == 0 || !isName(ref)) {
		return usagef("give it a name: build -t REGISTRY/NAME:TAG", "%s: only a name says where to push to", ref)
	}
	return a.retryDamaged(func() error {
		_, err := a.export(ctx, images, out, false)
		return err
	})
}

// platforms returns what ref stands for: the image img, or, when it is a name and out takes several, all that were built
// together.
func (a *app) platforms(ref string, img *source.Image, out exporter.Output) ([]*exporter.Image, error) {
	list := []*source.Image{img}
	if named, err := source.Normalize(ref); err == nil && named.String() == img.Name && out.Type != exporter.TypeDocker {
		if list, err = a.images.Platforms(img); err != nil {
			return nil, err
		}
	}
	var images []*exporter.Image
	for _, i := range list {
		image, err := exporter.Load(a.disk, a.layers, i.Config)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	return images, nil
}

// isName reports whether ref can be the name of an image, rather than the beginning of an ID.
func isName(ref string) bool {
	_, err := source.Normalize(ref)
	return err == nil
}
