package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/progress"
)

// whyOptions are the flags of "build why".
type whyOptions struct {
	from       string
	list, json bool
}

func (a *app) whyCommand() *cobra.Command {
	o := &whyOptions{}
	c := &cobra.Command{
		Use:   "why [BUILD] [--from OTHER] [STEP]",
		Short: "Say why the steps of a build were not reused",
		Long: `Say why the steps of a build were not reused: of the last one, or of BUILD, which is the beginning of an ID or a tag.
With --from, say in what its steps are not those of OTHER, whatever was reused.
STEP is the number of a step, like 2/5 or "build 2/5", a line like Dockerfile:12, or a part of its text.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := a.open(); err != nil {
				return err
			}
			return a.why(history.Open(a.disk), o, args)
		},
	}
	c.Flags().StringVar(&o.from, "from", "", "the build to compare with")
	c.Flags().BoolVar(&o.list, "list", false, "list the builds that are remembered")
	c.Flags().BoolVar(&o.json, "json", false, "print for programs")
	return c
}

func (a *app) why(log *history.Log, o *whyOptions, args []string) error {
	if o.list {
		if len(args) > 0 || o.from != "" {
			return usagef("", "--list takes no BUILD")
		}
		return a.listBuilds(log, o.json)
	}
	b, step, err := whyArgs(log, args)
	if err != nil {
		return err
	}
	g := log.Graph(b)
	if g == nil {
		return fmt.Errorf("build %s: its steps are not in the store any more", b.ID)
	}
	var all []explained
	if o.from != "" {
		all, err = differences(log, b, g, o.from)
	} else {
		all = outcomes(b, g)
	}
	if err != nil {
		return err
	}
	if step != "" {
		all = slices.DeleteFunc(all, func(e explained) bool { return !e.is(step) })
		if len(all) == 0 {
			return usagef(`"build why" without it shows those that ran`, "build %s has no step %q", b.ID, step)
		}
	}
	if o.json {
		return printJSON(a.stdio.out, struct {
			*history.Build
			Steps []explained `json:"steps"`
		}{b, all})
	}
	return a.printWhy(b, all, step != "", o.from)
}

// whyArgs reads [BUILD] [STEP]. What is no build is a step of the last one.
func whyArgs(log *history.Log, args []string) (b *history.Build, step string, err error) {
	if len(args) > 2 {
		return nil, "", usagef("see: build why --help", "one BUILD and one STEP are enough, %d are given", len(args))
	}
	if len(args) > 0 {
		b, err = log.Find(args[0])
		switch {
		case err == nil:
			return b, strings.Join(args[1:], ""), nil
		case len(args) == 2 || !errors.Is(err, history.ErrNoBuild):
			return nil, "", noBuild(err)
		}
		step = args[0]
	}
	err = log.Builds(func(last *history.Build) bool { b = last; return false })
	if err == nil && b == nil {
		err = usagef("builds are remembered in the store that they are made in, see --root", "no build is remembered")
	}
	return b, step, err
}

func noBuild(err error) error {
	if errors.Is(err, history.ErrNoBuild) {
		return usagef(`"build why --list" lists them`, "%w", err)
	}
	return err
}

// An explained step is one as "build why" shows it.
type explained struct {
	Label  string         `json:"label"`
	Number string         `json:"number,omitempty"`
	Pos    string         `json:"position,omitempty"`
	Action string         `json:"action"` // ran, reused or source; "" when it was not come to, or two builds are compared
	Status history.Status `json:"status,omitempty"`
	Took   time.Duration  `json:"took,omitempty"` // nanoseconds
	Usage  *history.Usage `json:"usage,omitempty"`
	Cause  *history.Cause `json:"cause,omitempty"`
}

func newExplained(s *history.Step) explained {
	return explained{Label: s.Label, Number: s.Number(), Pos: s.Pos()}
}

// is reports whether text names the step.
func (e *explained) is(text string) bool {
	short := e.Number[strings.LastIndex(e.Number, " ")+1:]
	_, line, _ := strings.Cut(e.Pos, ":")
	return text == e.Number || text == short || text == e.Pos || text == line || strings.Contains(strings.ToLower(e.Label), strings.ToLower(text))
}

// outcomes returns the steps of a build with what it recorded of them.
func outcomes(b *history.Build, g *history.Graph) []explained {
	of := map[int]history.Outcome{}
	for _, o := range b.Steps {
		of[o.Step] = o
	}
	var all []explained
	for i := range g.Steps {
		s := &g.Steps[i]
		e := newExplained(s)
		o, ok := of[i]
		switch {
		case s.Source():
			e.Action = "source"
		case o.Took > 0:
			e.Action, e.Status, e.Took, e.Usage = "ran", o.Status, o.Took, o.Usage
		case ok && !o.Content:
			e.Status = o.Status // it was not come to
		default:
			e.Action = "reused"
		}
		if o.Cause.Text != "" {
			e.Cause = &o.Cause
		}
		all = append(all, e)
	}
	return all
}

// differences returns the steps of a build with what is different in another one.
func differences(log *history.Log, b *history.Build, g *history.Graph, from string) ([]explained, error) {
	other, err := log.Find(from)
	if err != nil {
		return nil, noBuild(err)
	}
	c := &history.Comparison{Log: log, Now: g, Before: other, Old: log.Graph(other)}
	if c.Old == nil {
		return nil, fmt.Errorf("build %s: its steps are not in the store any more", other.ID)
	}
	var all []explained
	for i := range g.Steps {
		e := newExplained(&g.Steps[i])
		if d := c.Changed(i); d.Text != "" {
			e.Cause = &d
		}
		all = append(all, e)
	}
	return all, nil
}

// printWhy prints a line for each step that has a cause, or for all.
func (a *app) printWhy(b *history.Build, steps []explained, all bool, from string) error {
	out := a.stdio.out
	fmt.Fprintf(out, "build %s, %s, %s in %s: %s ran, %d reused\n", b.ID, ago(b.Began), b.Status, seconds(b.Took), counted(b.Ran(), "step", "steps"), b.Reused)
	switch {
	case from != "":
		fmt.Fprintf(out, "compared with %s\n", from)
	case b.Before != "":
		fmt.Fprintf(out, "compared with build %s\n", b.Before)
	}
	shown := 0
	for _, e := range steps {
		text := ""
		switch {
		case e.Cause != nil:
			text = e.Cause.Text
		case !all:
			continue
		case from != "":
			text = "the same"
		default:
			text = e.Action
		}
		if e.Took > 0 {
			text += " (" + e.spent() + ")"
		}
		if e.Status == history.Failed {
			text += ", failed"
		}
		fmt.Fprintln(out, progress.OneLine(labelled(e.Label)+": "+text))
		shown++
	}
	if shown == 0 && from != "" {
		fmt.Fprintln(out, "their steps are the same")
	}
	return nil
}

// spent says how long a step has run and, where it was a process, what that has used.
func (e *explained) spent() string {
	text := seconds(e.Took)
	if u := e.Usage; u != nil {
		text += ", cpu " + seconds(u.CPU)
		if u.Memory > 0 {
			text += ", memory " + units.BytesSize(float64(u.Memory))
		}
	}
	return text
}

// labelled returns a label that a colon may follow.
func labelled(label string) string {
	if strings.HasSuffix(label, ".") {
		return label + " "
	}
	return label
}

// counted returns a number of things, with the word for them.
func counted(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + several
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s" }

// listBuilds prints the builds that are remembered, newest first.
func (a *app) listBuilds(log *history.Log, asJSON bool) error {
	builds := []*history.Build{}
	if err := log.Builds(func(b *history.Build) bool { builds = append(builds, b); return true }); err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdio.out, builds)
	}
	w := tabwriter.NewWriter(a.stdio.out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "BUILD\tBEGAN\tTOOK\tSTATUS\tRAN\tREUSED\tCONTEXT\tNAMES")
	for _, b := range builds {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", b.ID, ago(b.Began), seconds(b.Took), b.Status, b.Ran(), b.Reused,
			b.Subject.Context, strings.Join(b.Subject.Tags, " "))
	}
	return w.Flush()
}
