package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/source"
)

func (a *app) rmiCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE...",
		Short: "Remove names of images, or images by their IDs",
		Long: `Remove names of images, or images by their IDs.

An image is gone when its last name is. Its layers stay as results that builds
reuse, until "build prune" or the limit of the store evicts them.`,
		Args: someImages,

		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE:              func(c *cobra.Command, args []string) error { return a.rmi(c.Context(), args, force) },
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "remove an image under all of its names, and do not complain of one that is not there")
	return c
}

// rmi removes all that it can, and says of each of the others what is wrong with it.
func (a *app) rmi(ctx context.Context, refs []string, force bool) error {
	if err := a.open(); err != nil {
		return err
	}
	status := exitDone
	for _, ref := range refs {
		r, err := a.images.Remove(ctx, ref, force)
		if err != nil && !(force && errors.Is(err, source.ErrNotInStore)) {
			status = a.exit(err)
		}
		if r == nil {
			continue
		}
		for _, name := range r.Names {
			fmt.Fprintf(a.stdio.out, "Untagged: %s\n", name)
		}
		for _, id := range r.IDs {
			fmt.Fprintf(a.stdio.out, "Deleted: %s\n", id)
		}
	}
	if status != exitDone {
		return statusError(status)
	}
	return nil
}

func someImages(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef(`"build images" lists them`, "an IMAGE is needed, none is given")
	}
	return nil
}
