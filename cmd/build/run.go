package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/source"
)

// runOptions are the flags of build run.
type runOptions struct {
	entrypoint    string
	hasEntrypoint bool
	env           []string
	user, workdir string
	limits        limitOptions
	network       string
}

func (a *app) runCommand() *cobra.Command {
	o := &runOptions{}
	c := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [ARG...]",
		Short: "Run an image of the store",
		Long: `Run an image of the store in a sandbox like that of a RUN step. The arguments take the
place of the image's CMD. What the process changes is thrown away when it ends, and its
exit status is that of this command.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(`"build images" lists them`, "an IMAGE is needed")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.hasEntrypoint = c.Flags().Changed("entrypoint")
			return a.run(c.Context(), o, args[0], args[1:])
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.StringVar(&o.entrypoint, "entrypoint", "", "program to run in place of the image's ENTRYPOINT; its CMD is left out")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment variable, as KEY=VALUE, or KEY for that of this environment")
	f.StringVarP(&o.user, "user", "u", "", "user to run as, as NAME|UID[:GROUP|GID], in place of the image's USER")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working directory, in place of the image's WORKDIR")
	a.isolationFlag(f)
	o.limits.flags(f)
	f.StringVar(&o.network, "network", "default", "network of the process: default, none or host")
	return c
}

func (a *app) run(ctx context.Context, o *runOptions, ref string, args []string) error {
	if err := checkNetwork(o.network); err != nil {
		return err
	}
	if err := a.enter(ctx); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	a.warnIsolation()
	if err := a.limit(&o.limits); err != nil {
		return err
	}
	img, err := a.find(ctx, ref)
	if err != nil {
		return err
	}
	argv := command(o, img, args)
	if len(argv) == 0 {
		return usagef("name a program after the image", "%s has no ENTRYPOINT and no CMD", ref)
	}
	spec := executor.RunSpec{
		Args: argv, Env: environment(img.Spec.Config.Env, o.env), Cwd: img.Spec.Config.WorkingDir, User: img.Spec.Config.User,
		Stdin: a.in, Stdout: a.stdio.out, Stderr: a.err, Terminal: true, Started: forward(a.in),
		Network: llb.Network(o.network),
	}
	if o.user != "" {
		spec.User = o.user
	}
	if o.workdir != "" {
		spec.Cwd = o.workdir
	}
	if spec.Cwd == "" {
		spec.Cwd = "/"
	}
	defer a.executor.Close()
	var status sandbox.Status
	err = a.retryDamaged(func() (err error) { // which shows before the process starts
		status, err = a.executor.Run(ctx, img.Chain, spec)
		return err
	})
	var exec *sandbox.ExecError
	if errors.As(err, &exec) {
		fmt.Fprintf(a.err, "build: %v\n", err)
		return statusError(exec.ExitCode())
	}
	if err != nil || status.Code == 0 {
		return err
	}
	if status.OutOfMemory {
		fmt.Fprintf(a.err, "build: %s\n", executor.OutOfMemory(status.Usage.Memory, a.executor.Limits.Memory))
	}
	return statusError(status.Code)
}

// command returns what runs: arguments take the place of CMD, and --entrypoint
// that of ENTRYPOINT with its CMD.
func command(o *runOptions, img *source.Resolved, args []string) []string {
	entrypoint, cmd := img.Spec.Config.Entrypoint, img.Spec.Config.Cmd
	if o.hasEntrypoint {
		entrypoint, cmd = nil, nil
		if o.entrypoint != "" {
			entrypoint = []string{o.entrypoint}
		}
	}
	if len(args) > 0 {
		cmd = args
	}
	return slices.Concat(entrypoint, cmd)
}

// environment returns the image's variables with those of -e, which win.
func environment(image, flags []string) []string {
	out := slices.Clone(image)
	for _, text := range flags {
		k, _, ok := strings.Cut(text, "=")
		if !ok {
			v, set := os.LookupEnv(k)
			if !set {
				continue
			}
			text = k + "=" + v
		}
		out = slices.DeleteFunc(out, func(e string) bool { return strings.HasPrefix(e, k+"=") })
		out = append(out, text)
	}
	return out
}

// forward passes the signals that this process gets on to the process of the image. Those of a
// terminal's keys are left out where the terminal sends them to both.
func forward(in io.Reader) func(*sandbox.Process) {
	list := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT}
	keys := []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH}
	ours := make(chan os.Signal, 16)
	signal.Notify(ours, append(list, keys...)...)
	f, ok := in.(*os.File)
	onTerminal := ok && term.IsTerminal(int(f.Fd()))
	return func(p *sandbox.Process) {
		go func() {
			for s := range ours {
				if !onTerminal || !slices.Contains(keys, s) {
					_ = p.Signal(s)
				}
			}
		}()
	}
}

// find returns an image of the store.
func (a *app) find(ctx context.Context, ref string) (*source.Resolved, error) {
	record, err := a.images.Find(ref)
	if err != nil {
		return nil, err
	}
	img, err := a.images.Load(ctx, record)
	if err == nil && img == nil {
		err = fmt.Errorf("%s: layers of the image are not in the store any more", ref)
	}
	return img, err
}
