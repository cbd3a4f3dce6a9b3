package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/userns"
)

// removeStore is the name of the helper that removes what an ordinary user's builds leave: files
// of other owners, which only go from within his user namespace.
const removeStore = "remove-store"

func remove() {
	if _, inside := userns.Inside(); !inside && os.Geteuid() != 0 {
		mode, err := userns.Detect()
		if err == nil {
			var code int
			if code, err = userns.Enter(context.Background(), mode); err == nil {
				os.Exit(code)
			}
		}
		fmt.Fprintln(os.Stderr, err)
	}
	if err := cache.RemoveAll(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exits is a helper of the scripts: "exits 3 build ..." succeeds when the command
// ends with that status. Signals go to the command.
func exits() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := forwarded()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != want {
		fmt.Fprintf(os.Stderr, "exits: the status is %d, not %d\n", got, want)
		os.Exit(1)
	}
	os.Exit(0)
}

// forwarded returns a channel of the signals that people send.
func forwarded() <-chan os.Signal {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	return c
}
