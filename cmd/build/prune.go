package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/collect"
)

// pruneOptions are the flags of build prune, as they were written.
type pruneOptions struct {
	listing
	all, force                              bool
	duration                                string
	reserved, oldReserved, maxUsed, minFree string
}

func (a *app) pruneCommand() *cobra.Command {
	o := &pruneOptions{}
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no name and no running build needs",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.prune(c.Context(), o) },
	}
	f := c.Flags()
	o.listing.flags(f)
	f.BoolVarP(&o.all, "all", "a", false, "also remove results whose bytes stay because something else has them, and what is remembered of URLs and repositories")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	f.StringVar(&o.duration, "keep-duration", "", "keep what was used within this `TIME`, like 24h or 7d")
	f.StringVar(&o.reserved, "reserved-space", "", "the `SIZE` that the store may always have, like 10g")
	f.StringVar(&o.oldReserved, "keep-storage", "", "the same `SIZE` as --reserved-space")
	f.StringVar(&o.maxUsed, "max-used-space", "", "the `SIZE` that the store may have, if that is more")
	f.StringVar(&o.minFree, "min-free-space", "", "remove until this `SIZE` is free on the disk, or nothing where it is")
	return c
}

func (a *app) prune(ctx context.Context, o *pruneOptions) error {
	policy, err := o.policy(time.Now())
	if err != nil {
		return err
	}
	if err := a.openOwned(ctx); err != nil {
		return err
	}
	if ok, err := a.confirm(o); err != nil || !ok {
		return err
	}
	r, err := a.collector.Evict(ctx, policy)
	if err != nil {
		return err
	}
	if o.asJSON {
		if r.Evicted == nil {
			r.Evicted = []*collect.Record{}
		}
		return printJSON(a.stdio.out, r)
	}
	w := tabwriter.NewWriter(a.stdio.out, 0, 8, 3, ' ', 0)
	if len(r.Evicted) > 0 {
		printRecords(w, r.Evicted)
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "Reclaimed:\t%s\nTotal:\t%s\n", units.HumanSize(float64(r.Freed)), units.HumanSize(float64(r.Total)))
	return w.Flush()
}

// policy reads the flags.
func (o *pruneOptions) policy(now time.Time) (collect.Policy, error) {
	p := collect.Policy{All: o.all, Why: "by build prune"}
	filter, err := o.listing.read(now)
	if err != nil {
		return p, err
	}
	p.Match = filter
	if o.duration != "" {
		age, err := collect.ParseAge(o.duration)
		if err != nil {
			return p, usagef("", "--keep-duration %s: %w", o.duration, err)
		}
		p.Match = func(r *collect.Record) bool { return filter(r) && r.LastUsed.Before(now.Add(-age)) }
	}
	if o.reserved != "" && o.oldReserved != "" {
		return p, usagef("name one of them", "--reserved-space and --keep-storage are the same")
	}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{
		{"--reserved-space", o.reserved, &p.Space.Reserved}, {"--keep-storage", o.oldReserved, &p.Space.Reserved},
		{"--max-used-space", o.maxUsed, &p.Space.MaxUsed}, {"--min-free-space", o.minFree, &p.Space.MinFree},
	} {
		if size.text == "" {
			continue
		}
		if *size.to, err = parseSize(size.flag, size.text); err != nil {
			return p, err
		}
	}
	return p, nil
}

// confirm asks whether to go on, as docker does, unless that is said already.
func (a *app) confirm(o *pruneOptions) (bool, error) {
	if o.force {
		return true, nil
	}
	what := "results that no name and no running build needs"
	if len(o.filters) > 0 || o.duration != "" || o.reserved+o.oldReserved+o.maxUsed+o.minFree != "" {
		what += ", as far as the options say"
	}
	fmt.Fprintf(a.err, "This removes %s, and cache mounts.\nGo on? [y/N] ", what)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	switch answer := strings.ToLower(strings.TrimSpace(line)); {
	case answer == "y", answer == "yes":
		return true, nil
	case answer == "" && err != nil:
		return false, usagef("--force removes without asking", "nobody answered; nothing is removed")
	}
	fmt.Fprintln(a.err, "Nothing is removed.")
	return false, nil
}
