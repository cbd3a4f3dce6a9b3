// Command build turns a Dockerfile into an OCI image: no daemon, no root, no
// helper program.
//
// This package owns flags, signals, wiring, progress and exit codes. It holds
// no build logic: without it the rest is a usable library.
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

	"github.com/moby/buildkit/util/suggest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/executor/sandbox"
)

func main() {
	sandbox.Main() // does not return in the supervisor of a chroot
	syscall.Umask(0o022)
	os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio holds the standard streams of the command.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// errInterrupted is why a build ends that was interrupted.
var errInterrupted = errors.New("interrupted")

// run carries out one command line and returns the exit status.
func run(args []string, std stdio) int {
	a := &app{stdio: std, isolation: envOr("BUILD_ISOLATION", autoIsolation)}
	if err := a.setDebug(os.Getenv("BUILD_DEBUG"), std.err); err != nil {
		return a.exit(err)
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	defer a.close()
	root := a.command()
	root.SetArgs(withVerb(root, args))
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errInterrupted) && !errors.As(err, new(statusError)) {
		err = errInterrupted // whatever failed after the interrupt failed because of it
	}
	return a.exit(err)
}

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP ends. After it they have their
// default effect again: a second Ctrl-C ends a build that does not want to end.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case <-signals:
			signal.Stop(signals)
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// mainVerb is the verb of a command line that names none. It is not for people to write.
const mainVerb = "build"

// withVerb returns args with the main verb in front, unless the first of them that is no option of all verbs is the name
// of a verb. A folder that is called like a verb is written "./run".
func withVerb(root *cobra.Command, args []string) []string {
	if own := args[countOptions(root.PersistentFlags(), args):]; len(own) > 0 {
		known := func(c *cobra.Command) bool { return c.Name() == own[0] && c.Name() != mainVerb }
		switch {
		case own[0] == cobra.ShellCompRequestCmd, own[0] == cobra.ShellCompNoDescRequestCmd:
			return append(args[:len(args)-len(own)+1:len(args)-len(own)+1], withVerbToComplete(root, own[1:])...)
		case slices.ContainsFunc(root.Commands(), known),
			own[0] == "help", own[0] == "completion",
			len(own) == 1 && (own[0] == "--help" || own[0] == "-h" || own[0] == "--version"):
			return args
		}
	}
	return append([]string{mainVerb}, args...)
}

// countOptions returns how many of args, from the first one on, are options of flags and their values.
func countOptions(flags *pflag.FlagSet, args []string) int {
	n := 0
	for n < len(args) {
		name, long := strings.CutPrefix(args[n], "--")
		name, _, hasValue := strings.Cut(name, "=")
		f := flags.Lookup(name)
		if !long || f == nil {
			break
		}
		n++
		if !hasValue && f.NoOptDefVal == "" {
			n++
		}
	}
	return min(n, len(args))
}

// command returns the whole command line interface.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "build [OPTIONS] PATH|URL|-",
		Short: "Build an OCI image from a Dockerfile, without a daemon and without root",
		Long: `build turns a Dockerfile into an OCI image, without a daemon and without root.

  build -t app:1 .                                 keep the image under a tag
  build -t app:1 -o type=docker,dest=app.tar .     write an archive for docker load
  build -t registry.example/app:1 --push .         push it to a registry
  build run app:1                                  run it`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetVersionTemplate("build {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.root, "root", "", "`FOLDER` of the store (default $BUILD_ROOT, else $XDG_DATA_HOME/build, for root /var/lib/build)")
	root.PersistentFlags().StringVar(&a.hosts, "registry-config", os.Getenv("BUILD_REGISTRY_CONFIG"), "`FILE` that says how registries are reached: mirrors, plain HTTP, certificates (default $BUILD_REGISTRY_CONFIG, else registries.toml in ~/.config/build or /etc/build)")
	root.SetFlagErrorFunc(flagError)
	main := a.buildCommand()
	root.AddCommand(main, a.runCommand(), a.imagesCommand(), a.rmiCommand(), a.pushCommand(), a.saveCommand(),
		a.historyCommand(), a.inspectCommand(), a.whyCommand(), a.planCommand(), a.duCommand(), a.pruneCommand(), a.fsckCommand(),
		a.doctorCommand(), a.versionCommand())
	root.SetHelpFunc(help(root, main))
	completeFlags(root)
	return root
}

// elsewhere are options of docker and podman that are not here, and what to do in their place.
var elsewhere = map[string]string{
	"load":       "the image is kept in the store, for build run and FROM; for docker: build -t NAME -o type=docker,dest=- PATH | docker load",
	"cache-from": "what the store holds is reused by itself; caches elsewhere are not read",
	"cache-to":   "what the store holds is reused by itself; caches elsewhere are not written",
	"attest":     "no attestations are made; leave it out",
	"builder":    "there is no builder to choose: this command builds",
	"squash":     "layers are kept; -o type=tar or type=local gives the files as one",
	"compress":   "nothing is sent anywhere; leave it out",
	"rm":         "no containers are left behind; leave it out",
	"force-rm":   "no containers are left behind; leave it out",
	"layers":     "layers are always kept; --no-cache runs every step",
}

// flagError is the error of a command line with an option that is not known, or has no such value.
func flagError(c *cobra.Command, err error) error {
	hint := fmt.Sprintf("%q lists the options", strings.Replace(c.CommandPath(), mainVerb+" "+mainVerb, mainVerb, 1)+" --help")
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		name := unknown.GetSpecifiedName()
		if says := elsewhere[name]; says != "" && c.Name() == mainVerb {
			hint = says
		} else if len(name) > 1 {
			err = suggest.WrapError(err, name, names, true)
		}
	}
	return &usageError{err, hint}
}

// help returns the help of all commands. The main verb is not for people to write, so its options
// are part of the help of the program.
func help(root, main *cobra.Command) func(*cobra.Command, []string) {
	plain := root.HelpFunc()
	return func(c *cobra.Command, args []string) {
		if c != root && c != main {
			plain(c, args)
			return
		}
		out := root.OutOrStdout()
		fmt.Fprintf(out, "%s\n\nUsage:\n  %s\n  build VERB ...\n\nVerbs:\n", root.Long, root.Use)
		for _, verb := range root.Commands() {
			if verb != main {
				fmt.Fprintf(out, "  %-11s %s\n", verb.Name(), verb.Short)
			}
		}
		fmt.Fprintf(out, "\nOptions of a build:\n%s\nOptions of all:\n%s", main.LocalFlags().FlagUsages(), root.PersistentFlags().FlagUsages())
	}
}
