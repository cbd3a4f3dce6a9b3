package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/source"
)

func (a *app) imagesCommand() *cobra.Command {
	var quiet, asJSON bool
	c := &cobra.Command{
		Use:   "images",
		Short: "List the images of the store",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.open(); err != nil {
				return err
			}
			list, err := a.images.List()
			if err != nil {
				return err
			}
			switch {
			case quiet:
				for _, img := range list {
					fmt.Fprintln(a.stdio.out, img.Config)
				}
				return nil
			case asJSON:
				return printJSON(a.stdio.out, list)
			}
			return a.table(c.Context(), list)
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the IDs only")
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return c
}

func (a *app) table(ctx context.Context, list []*source.Image) error {
	w := tabwriter.NewWriter(a.stdio.out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tPLATFORM\tCREATED\tSIZE")
	for _, img := range list {
		name := img.Familiar()
		if name == "" {
			name = "<none>"
		}
		fmt.Fprintf(w, "%s\t%s\t%s/%s\t%s\t%s\n", name, img.Config.Short(), img.Platform.OS, img.Platform.Architecture, ago(img.Created), a.size(img.Layers...))
	}
	return w.Flush()
}

// size returns the size of layers as far as it is known without downloading them.
func (a *app) size(layers ...digest.Digest) string {
	var n int64
	for _, l := range layers {
		size, ok := a.layers.Size(l)
		if !ok {
			return "not downloaded"
		}
		n += size
	}
	return units.HumanSize(float64(n))
}

func ago(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "unknown"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (a *app) historyCommand() *cobra.Command {
	var noTrunc, asJSON bool
	c := &cobra.Command{
		Use:   "history IMAGE",
		Short: "Show the steps that an image was made by",
		Args:  oneImage,

		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			img, err := a.stored(c.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdio.out, img.Spec.History)
			}
			return a.printHistory(img, noTrunc)
		},
	}
	c.Flags().BoolVar(&noTrunc, "no-trunc", false, "do not shorten the texts")
	c.Flags().BoolVar(&asJSON, "json", false, "print the history of the image's config")
	return c
}

// stored opens the store and returns one of its images.
func (a *app) stored(ctx context.Context, ref string) (*source.Resolved, error) {
	if err := a.open(); err != nil {
		return nil, err
	}
	return a.find(ctx, ref)
}

// completeImages completes names of images for a shell, up to as many as the command line may have.
func (a *app) completeImages(most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		if a.open() != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := a.images.List()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		for _, img := range list {
			if name := img.Familiar(); img.Name != "" && !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("see: "+c.CommandPath()+" --help", "%s takes no argument, and %q is one", c.Name(), args[0])
	}
	return nil
}

func oneImage(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef(`"build images" lists them`, "one IMAGE is needed, %d are given", len(args))
	}
	return nil
}

// printHistory prints the newest step first, as docker does.
func (a *app) printHistory(img *source.Resolved, noTrunc bool) error {
	w := tabwriter.NewWriter(a.stdio.out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "CREATED\tCREATED BY\tSIZE\tCOMMENT")
	h := img.Spec.History
	layer := len(img.Layers)
	for i := len(h) - 1; i >= 0; i-- {
		size := "0B"
		if !h[i].EmptyLayer && layer > 0 {
			layer--
			size = a.size(img.Layers[layer])
		}
		by := []rune(h[i].CreatedBy)
		if !noTrunc && len(by) > 60 {
			by = append(by[:59:59], '…')
		}
		created := "unknown"
		if h[i].Created != nil {
			created = ago(*h[i].Created)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", created, string(by), size, h[i].Comment)
	}
	return w.Flush()
}

func (a *app) inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Print what is known of an image, as JSON",
		Args:  oneImage,

		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			img, err := a.stored(c.Context(), args[0])
			if err != nil {
				return err
			}
			return printJSON(a.stdio.out, []any{inspected(img)})
		},
	}
}

// inspected returns an image in the shape of "docker image inspect".
func inspected(img *source.Resolved) any {
	var tags, digests []string
	if name := img.Familiar(); name != "" {
		tags = []string{name}
	}
	if ref := img.Pinned(); ref != "" {
		digests = []string{ref}
	}
	return map[string]any{
		"Id":           img.Config,
		"RepoTags":     tags,
		"RepoDigests":  digests,
		"Created":      img.Spec.Created,
		"Author":       img.Spec.Author,
		"Architecture": img.Spec.Architecture,
		"Variant":      img.Spec.Variant,
		"Os":           img.Spec.OS,
		"Config":       img.Spec.Config,
		"RootFS":       map[string]any{"Type": "layers", "Layers": img.Layers},
	}
}
