package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/collect"
	"github.com/seed0570efb0/build/internal/userns"
)

// A listing is how a verb shows records.
type listing struct {
	filters []string
	format  string
	asJSON  bool
}

func (l *listing) flags(f *pflag.FlagSet) {
	repeatedVar(f, &l.filters, "filter", "", "only what `KEY=VALUE`, KEY!=VALUE or KEY~=VALUE holds for: id, parents, type, description, inuse, mutable, immutable, shared, private, until=AGE; may be repeated")
	f.StringVar(&l.format, "format", "table", "the `FORMAT`: table or json")
	f.BoolVar(&l.asJSON, "json", false, "print JSON; the same as --format json")
}

// read checks the flags and returns the filter.
func (l *listing) read(now time.Time) (collect.Filter, error) {
	switch l.format {
	case "table":
	case "json":
		l.asJSON = true
	default:
		return nil, usagef("it is table or json", "--format %s: no such format", l.format)
	}
	var all []collect.Filter
	for _, text := range l.filters {
		f, err := collect.ParseFilter(text, now)
		if err != nil {
			return nil, usagef("it looks like type=exec.cachemount or until=24h", "--filter %s: %w", text, err)
		}
		all = append(all, f)
	}
	return func(r *collect.Record) bool {
		for _, f := range all {
			if !f(r) {
				return false
			}
		}
		return true
	}, nil
}

func (a *app) duCommand() *cobra.Command {
	l := &listing{}
	c := &cobra.Command{
		Use:   "du",
		Short: "Show what the store keeps, what it takes of the disk, and why it is kept",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			match, err := l.read(time.Now())
			if err != nil {
				return err
			}
			if err := a.openOwned(c.Context()); err != nil {
				return err
			}
			inv, err := a.collector.List(c.Context())
			if err != nil {
				return err
			}
			return a.printInventory(l, inv, match)
		},
	}
	l.flags(c.Flags())
	return c
}

// openOwned opens the store so that all in it can be read and removed, files of subordinate ids too. Where no isolation
// works there are none.
func (a *app) openOwned(ctx context.Context) error {
	err := a.enter(ctx)
	var host *userns.HostError
	if errors.As(err, &host) {
		return a.open()
	}
	return err
}

func (a *app) printInventory(l *listing, inv *collect.Inventory, match collect.Filter) error {
	reclaimable := inv.Reclaimable()
	shown := []*collect.Record{}
	for _, r := range inv.Records {
		if match(r) {
			shown = append(shown, r)
		}
	}
	if l.asJSON {
		return printJSON(a.stdio.out, map[string]any{"records": shown, "total": inv.Total, "reclaimable": reclaimable})
	}
	w := tabwriter.NewWriter(a.stdio.out, 0, 8, 3, ' ', 0)
	printRecords(w, shown)
	fmt.Fprintf(w, "\nReclaimable:\t%s\nTotal:\t%s\n", units.HumanSize(float64(reclaimable)), units.HumanSize(float64(inv.Total)))
	return w.Flush()
}

func printRecords(w *tabwriter.Writer, list []*collect.Record) {
	fmt.Fprintln(w, "ID\tTYPE\tSIZE\tLAST ACCESSED\tRECLAIMABLE\tDESCRIPTION")
	for _, r := range list {
		size, why := units.HumanSize(float64(r.Size)), "yes"
		if r.Shared {
			size += " shared"
		}
		if r.Kept != "" {
			why = "no: " + r.Kept
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID.Short(), r.Type, size, ago(r.LastUsed), why, r.Description)
	}
}
