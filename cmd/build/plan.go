package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/solver"
)

func (a *app) planCommand() *cobra.Command {
	o := &buildOptions{}
	asJSON := false
	c := &cobra.Command{
		Use:   "plan [OPTIONS] PATH|URL|-",
		Short: "Say what a build would run and reuse, and why, without running it",
		Long: `Say what a build with these options would run and reuse, why, and how long it will take by what earlier builds took.
The exit status is 0 when nothing would run, and 5 when a step would or may.`,
		Args: oneContext,
		RunE: func(c *cobra.Command, args []string) error { return a.foretell(c.Context(), o, args[0], asJSON) },
	}
	o.definitionFlags(c.Flags())
	a.completeBuild(c, o)
	c.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	return c
}

// foretell prints the plan of a build.
func (a *app) foretell(ctx context.Context, o *buildOptions, path string, asJSON bool) error {
	p, err := a.plan(o, path)
	if err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	a.useSecrets(p)
	defer a.executor.Close()
	defer a.closeContext(p)
	done, err := a.show("quiet")
	if err != nil {
		return err
	}
	defer done()
	if err := a.loadContext(ctx, p); err != nil {
		return err
	}
	if err := a.lower(ctx, p); err != nil {
		return err
	}
	a.executor.Epoch = p.lowered[0].Epoch
	var f *forecast
	err = a.retryDamaged(func() (err error) {
		f, err = a.forecast(ctx, p)
		return err
	})
	for _, x := range p.locals {
		x.Save() // or the build hashes the files again
	}
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(a.stdio.out, f)
	} else {
		a.printForecast(f)
	}
	if err == nil && f.Run+f.Depends > 0 {
		return statusError(exitWork)
	}
	return err
}

// A forecast is what "build plan" prints.
type forecast struct {
	Run     int `json:"run"`     // steps that will run
	Depends int `json:"depends"` // steps that run unless others give what they gave before
	Reuse   int `json:"reuse"`
	// Time is how long the steps take that run or may, when there are enough processors, and Work all of them together; 0 is not
	// known.
	Time    time.Duration `json:"time"`
	Work    time.Duration `json:"work"`
	Unknown int           `json:"unknown"` // steps of which no time is known
	// Before is the build that the causes are about.
	Before string    `json:"before,omitempty"`
	Steps  []planned `json:"steps"`
}

// A planned step is one of a forecast.
type planned struct {
	Label  string        `json:"label"`
	Number string        `json:"number,omitempty"`
	Pos    string        `json:"position,omitempty"`
	Action solver.Action `json:"action"`
	// Content is set for what is reused though its definition is not known.
	Content bool           `json:"content,omitempty"`
	Cause   *history.Cause `json:"cause,omitempty"`
	// On are the steps that it depends on.
	On []string `json:"on,omitempty"`
	// Expected is how long it will run, by earlier builds; 0 is not known.
	Expected time.Duration `json:"expected,omitempty"`
}

// forecast asks the solver what it would do, and compares that with the build before.
func (a *app) forecast(ctx context.Context, p *plan) (*forecast, error) {
	r := a.newRecorder(p)
	s := a.solver(p)
	s.Executor = r
	decisions, err := s.Plan(ctx, p.roots(), a.executor)
	if err != nil {
		return nil, err
	}
	c := r.Comparison()
	actions := map[int]solver.Action{}
	for _, d := range decisions {
		actions[r.Step(d.Vertex)] = d.Action
	}
	c.Rerun = func(step int) bool { return works(actions[step]) }
	f := &forecast{Steps: []planned{}}
	if c.Before != nil {
		f.Before = c.Before.ID
	}
	ends := map[digest.Digest]time.Duration{} // the earliest end of each step
	for _, d := range decisions {
		i := r.Step(d.Vertex)
		step := &c.Now.Steps[i]
		x := planned{Label: step.Label, Number: step.Number(), Pos: step.Pos(), Action: d.Action, Content: d.Content}
		for _, in := range d.On {
			x.On = append(x.On, in.Meta().Label)
		}
		for _, in := range d.Vertex.Inputs() {
			ends[d.Vertex.ID()] = max(ends[d.Vertex.ID()], ends[in.ID()])
		}
		var cause history.Cause
		switch {
		case works(d.Action):
			cause, x.Expected = c.Cause(i), c.Expect(i)
		case step.Kind == history.KindImage:
			cause = c.Difference(i)
		}
		if cause.Text != "" {
			x.Cause = &cause
		}
		f.count(&x)
		ends[d.Vertex.ID()] += x.Expected
		f.Time = max(f.Time, ends[d.Vertex.ID()])
		if step.Kind != history.KindLocal {
			f.Steps = append(f.Steps, x)
		}
	}
	return f, nil
}

// works reports whether a step with this action has something to do, perhaps.
func works(a solver.Action) bool { return a == solver.Run || a == solver.Depends }

func (f *forecast) count(x *planned) {
	switch x.Action {
	case solver.Run:
		f.Run++
	case solver.Depends:
		f.Depends++
	case solver.Reuse:
		f.Reuse++
	}
	if works(x.Action) && x.Expected == 0 {
		f.Unknown++
	}
	f.Work += x.Expected
}

// notable is from when on the time of a step is shown.
const notable = 50 * time.Millisecond

// printForecast prints a line for each step, and one for all.
func (a *app) printForecast(f *forecast) {
	for i := range f.Steps {
		x := &f.Steps[i]
		text := string(x.Action)
		if x.Expected >= notable {
			text += " " + seconds(x.Expected)
		}
		line := fmt.Sprintf("%-13s %s", text, x.Label)
		if x.Cause != nil {
			line = fmt.Sprintf("%-13s %s: %s", text, labelled(x.Label), x.Cause.Text)
		}
		fmt.Fprintln(a.stdio.out, progress.OneLine(line))
	}
	fmt.Fprintf(a.stdio.out, "%d run, %d depend on what these give, %d are reused", f.Run, f.Depends, f.Reuse)
	switch {
	case f.Run+f.Depends == 0:
		fmt.Fprint(a.stdio.out, ": nothing to do")
	case f.Work > 0:
		fmt.Fprintf(a.stdio.out, ": about %s", seconds(f.Time))
		if f.Unknown > 0 {
			fmt.Fprintf(a.stdio.out, ", and %d whose time is not known", f.Unknown)
		}
	}
	fmt.Fprintln(a.stdio.out)
}
