// Command build turns a Dockerfile into an OCI image: no daemon, no root, no
// helper program.
//
// This package owns flags, signals, wiring, progress and exit codes. It holds
// no build logic: without it the rest is a usable library.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

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
	collectGarbage()
	if err := a.setDebug(os.Getenv("BUILD_DEBUG"), std.err); err != nil {
		return a.exit(err)
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	defer a.close()
	err := a.command(args).ExecuteContext(ctx)
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
	return ctx, func() { cancel(nil) } // without signal.Stop, which waits for another thread for each signal: the process ends
}
