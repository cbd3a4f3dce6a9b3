package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/source"
)

// runOptions are the flags of build run.
type runOptions struct {
	entrypoint       string
	hasEntrypoint    bool
	env, envFiles    []string
	user, workdir    string
	network          string
	hostname         string
	hosts            []string
	limits           limitOptions
	volumes          volumeOptions
	devices          []string
	descriptions     deviceOptions
	security         securityOptions
	capAdd, capDrop  []string
	readOnly         bool
	privileged       bool
	interactive, tty bool
	init             bool
	remove, detach   bool
}

func (a *app) runCommand() *cobra.Command {
	o := &runOptions{}
	c := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [ARG...]",
		Short: "Run an image of the store",
		Long: `Run an image of the store in a sandbox like that of a RUN step. The arguments take the
place of the image's CMD. What the process changes is thrown away when it ends, and its
exit status is that of this command.`,
		ValidArgsFunction: a.completeImages(1),

		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &runError{usagef(`"build images" lists them`, "an IMAGE is needed")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.hasEntrypoint = c.Flags().Changed("entrypoint")
			if err := a.run(c.Context(), o, args[0], args[1:]); err != nil {
				return &runError{err}
			}
			return nil
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &runError{flagError(c, err)} })
	f := c.Flags()
	f.SetInterspersed(false)
	f.Bool("help", false, "show this help") // -h is docker's for --hostname
	f.StringVar(&o.entrypoint, "entrypoint", "", "`PROGRAM` to run in place of the image's ENTRYPOINT; its CMD is left out")
	repeatedVar(f, &o.env, "env", "e", "environment variable, as `KEY=VALUE`, or KEY for that of this environment")
	repeatedVar(f, &o.envFiles, "env-file", "", "`FILE` of environment variables, one per line; --env wins")
	f.StringVarP(&o.user, "user", "u", "", "user to run as, as `NAME|UID[:GROUP|GID]`, in place of the image's USER")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working `DIRECTORY`, in place of the image's WORKDIR")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on; without it there is none")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the process a terminal")
	f.BoolVar(&o.init, "init", false, "run a pid 1 that passes signals on and reaps orphans, with the program below it")
	f.BoolVar(&o.remove, "rm", true, "throw away what the process changed, as is done in any case")
	f.BoolVarP(&o.detach, "detach", "d", false, "not supported: nothing of a container outlives the command")
	f.StringVar(&o.network, "network", "default", "the network `MODE` of the process: default, none or host")
	f.StringVarP(&o.hostname, "hostname", "h", "", "host `NAME` that the process sees")
	repeatedVar(f, &o.hosts, "add-host", "", "line of /etc/hosts, as `NAME:IP`; the IP host-gateway is this host")
	f.StringSliceVar(&o.capAdd, "cap-add", nil, "`CAPABILITY` to give, or ALL")
	f.StringSliceVar(&o.capDrop, "cap-drop", nil, "`CAPABILITY` to take away, or ALL")
	f.BoolVar(&o.privileged, "privileged", false, "give all capabilities and system calls, and keep nothing of /proc and /sys back")
	f.BoolVar(&o.readOnly, "read-only", false, "let the process change nothing but its volumes")
	repeatedVar(f, &o.devices, "device", "", "device of this host, as `SOURCE[:TARGET]`, or as a name that is described (CDI), VENDOR/CLASS=NAME")
	o.descriptions.flags(f)
	o.volumes.flags(f)
	o.security.flags(f)
	o.limits.flags(f)
	a.isolationFlag(f)
	return c
}

// A runError is what keeps build run from running a process.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

func (a *app) run(ctx context.Context, o *runOptions, ref string, args []string) error {
	spec, err := o.spec()
	if err != nil {
		return err
	}
	if err := a.enter(ctx); err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	a.warnIsolation()
	if err := a.checkSecurity(spec.Security); err != nil {
		return err
	}
	if err := a.limit(&o.limits); err != nil {
		return err
	}
	img, err := a.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := o.forImage(spec, img, args); err != nil {
		return err
	}
	if len(spec.Args) == 0 {
		return usagef("name a program after the image", "%s has no ENTRYPOINT and no CMD", ref)
	}
	defer a.executor.Close()
	return a.ended(a.execute(ctx, o, img, spec))
}

// execute runs the process and returns how it ended.
func (a *app) execute(ctx context.Context, o *runOptions, img *source.Resolved, spec *executor.RunSpec) (status sandbox.Status, err error) {
	restore, err := a.connect(o, spec)
	if err != nil {
		return status, err
	}
	defer restore()
	err = a.retryDamaged(func() (err error) { // which shows before the process starts
		status, err = a.executor.Run(ctx, img.Chain, *spec)
		return err
	})
	return status, err
}

// ended tells how a process ended, and returns its exit status as an error.
func (a *app) ended(status sandbox.Status, err error) error {
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

// spec reads the flags, without an image.
func (o *runOptions) spec() (*executor.RunSpec, error) {
	s := &executor.RunSpec{
		Network: llb.Network(o.network), Hostname: o.hostname, CapAdd: o.capAdd, CapDrop: o.capDrop, ReadOnly: o.readOnly, Init: o.init,
	}
	if o.detach {
		return nil, usagef("run it in the background of the shell: build run ... &", "--detach: nothing of a container outlives the command")
	}
	if !o.remove {
		return nil, usagef("write what is to stay into a volume", "--rm=false: nothing of a container outlives it")
	}
	if o.workdir != "" && !path.IsAbs(o.workdir) {
		return nil, usagef("it is an absolute path in the container", "--workdir %s", o.workdir)
	}
	const longest = 64 // that the kernel keeps
	if len(o.hostname) > longest || strings.ContainsFunc(o.hostname, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return nil, usagef("it has at most 64 bytes, and no spaces", "--hostname %q", o.hostname)
	}
	if err := checkNetwork(o.network); err != nil {
		return nil, err
	}
	if _, err := sandbox.ChangeCaps(nil, o.capAdd, o.capDrop); err != nil {
		return nil, usagef("it looks like NET_ADMIN or ALL", "--cap-add, --cap-drop: %w", err)
	}
	var err error
	if s.Hosts, err = hosts(o.hosts); err != nil {
		return nil, err
	}
	if s.Volumes, err = o.volumes.parse(); err != nil {
		return nil, err
	}
	if s.Devices, err = parseDevices(o.descriptions.registry(), o.devices); err != nil {
		return nil, err
	}
	if s.Security, err = o.security.parse(); err != nil {
		return nil, err
	}
	s.Security.Insecure = o.privileged
	_, err = environment(nil, o)
	return s, err
}

// forImage completes s with what the image says, and what the flags put in its place.
func (o *runOptions) forImage(s *executor.RunSpec, img *source.Resolved, args []string) (err error) {
	config := &img.Spec.Config
	s.Args, s.User, s.Cwd = command(o, img, args), config.User, config.WorkingDir
	if o.user != "" {
		s.User = o.user
	}
	if o.workdir != "" {
		s.Cwd = o.workdir
	}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	s.Env, err = environment(config.Env, o)
	return err
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
