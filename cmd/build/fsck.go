package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/collect"
	"github.com/seed0570efb0/build/internal/userns"
)

func (a *app) fsckCommand() *cobra.Command {
	var repair, asJSON bool
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Read the whole store and tell what is damaged",
		Long: `Read the whole store and tell what is damaged: blobs, the trees of layers, tables of contents, index entries, and names of images.
Builds may be running. What is damaged does no harm: a build that meets it makes it again. The exit status is 1 when something
is damaged and was not removed.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.fsck(c.Context(), repair, asJSON) },
	}
	c.Flags().BoolVar(&repair, "repair", false, "remove what is damaged")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) fsck(ctx context.Context, repair, asJSON bool) error {
	err := a.enter(ctx)
	var host *userns.HostError
	owned := !errors.As(err, &host) // files look as they did to the steps that wrote them
	if !owned {
		err = a.open()
	}
	if err != nil {
		return err
	}
	damage := []collect.Damage{}
	seen, err := a.collector.Check(ctx, collect.Check{Repair: repair, Trees: owned, Found: func(d collect.Damage) {
		damage = append(damage, d)
		if !asJSON {
			a.printDamage(d)
		}
	}})
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(a.stdio.out, map[string]any{"checked": seen, "damage": damage}); err != nil {
			return err
		}
	} else {
		a.printChecked(seen, repair)
	}
	if len(damage) > 0 && !repair {
		return statusError(exitFailed)
	}
	return nil
}

func (a *app) printDamage(d collect.Damage) {
	end := ""
	if d.Removed {
		end = "; removed"
	}
	fmt.Fprintf(a.stdio.out, "%s: %s%s\n", d.Name, d.Problem, end)
}

func (a *app) printChecked(seen *collect.Checked, repair bool) {
	fmt.Fprintf(a.stdio.out, "%s, %s, %s, %s, %s: ", counted(seen.Blobs, "blob", "blobs"), counted(seen.Layers, "layer", "layers"),
		counted(seen.Chains, "chain", "chains"), counted(seen.Entries, "index entry", "index entries"), counted(seen.Images, "image", "images"))
	switch {
	case seen.Damaged == 0:
		fmt.Fprintln(a.stdio.out, "all is whole")
	case repair:
		fmt.Fprintf(a.stdio.out, "%s removed; builds that need them make them again\n", counted(seen.Damaged, "damaged thing was", "damaged things were"))
	default:
		fmt.Fprintf(a.stdio.out, "%s; build fsck --repair removes them\n", counted(seen.Damaged, "damaged thing", "damaged things"))
	}
	if seen.Unread > 0 {
		fmt.Fprintf(a.stdio.out, "%s made by another isolation and could not be read here\n", counted(seen.Unread, "tree of a layer was", "trees of layers were"))
	}
}
