package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
	"github.com/seed0570efb0/build/parser"
	"github.com/seed0570efb0/build/solver"
	"github.com/seed0570efb0/build/source"
)

// The exit statuses. 2 is left out: it is what a crash of a Go program gives.
const (
	exitDone        = 0
	exitFailed      = 1   // a step, a registry or an output failed
	exitUsage       = 3   // wrong options, or a wrong Dockerfile
	exitHost        = 4   // the host lacks something
	exitWork        = 5   // "build plan": a step would run, or may
	exitRun         = 125 // build run has not run anything: what is below may be the status of the process
	exitInterrupted = 130 // by a signal
)

// A usageError is a command line that cannot be carried out.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), hint}
}

// A statusError is an exit status that is not ours, like that of a container.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exit prints err and returns the exit status it means.
func (a *app) exit(err error) int {
	var status statusError
	if err == nil {
		return exitDone
	}
	if errors.As(err, &status) {
		return int(status)
	}
	code, text, hint := a.explain(err)
	if code != exitInterrupted && errors.As(err, new(*runError)) {
		code = exitRun
	}
	a.excerpt(err)
	fmt.Fprintf(a.err, "build: %s\n", text)
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", hint)
	}
	return code
}

// explain returns the exit status, the message and the hint of an error.
func (a *app) explain(err error) (code int, text, hint string) {
	var (
		usage *usageError
		parse *parser.Error
		host  *userns.HostError
		store *cache.StoreError
		image *source.ImageError
		far   *source.RemoteError
		other *verifyError
		gone  *cdi.NotFoundError
	)
	text = err.Error()
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted, "interrupted", ""
	case errors.As(err, &host):
		return exitHost, text, host.Hint
	case errors.As(err, &store):
		return exitHost, text, store.Hint
	case errors.As(err, &gone):
		return exitHost, text, gone.Hint
	case diskHint(err) != "": // whatever was being read or written
		return exitFailed, text, diskHint(err)
	case errors.As(err, &usage):
		return exitUsage, text, usage.hint
	case errors.As(err, &parse):
		if errors.As(err, &image) { // the line is right, but what it names cannot be had
			return exitFailed, text, cmp.Or(parse.Hint, image.Hint)
		}
		return exitUsage, text, parse.Hint
	case errors.As(err, &image):
		return exitFailed, text, image.Hint
	case errors.As(err, &far):
		return exitFailed, text, far.Hint
	case errors.As(err, &other):
		return exitFailed, text, verifyHint
	}
	return exitFailed, text, cmp.Or(stepHint(err), a.privilegeHint(err))
}

// diskHint returns what to do about a disk that is full or fails, "" for other errors.
func diskHint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full: free some space, or name another folder with --root; the store is sound"
	case errors.Is(err, syscall.EDQUOT):
		return "your quota of the disk is used up: free some space, or name another folder with --root; the store is sound"
	case errors.Is(err, syscall.EIO):
		return "the disk, or what is below it, has failed: the kernel's log says more, and \"build fsck\" what it has done to the store"
	}
	return ""
}

// stepHint returns what to do about steps that end in well-known ways.
func stepHint(err error) string {
	var notFound *executor.NotFoundError
	var exit *executor.ExitError
	var exec *sandbox.ExecError
	var foreign *executor.ForeignError
	switch {
	case errors.As(err, &notFound):
		return "paths are relative to the build context; what .dockerignore names is not part of it"
	case errors.As(err, &foreign):
		return foreign.Hint()
	case errors.As(err, &exec):
		return "the program must be in the image, with its interpreter and libraries"
	case errors.As(err, &exit) && exit.Status.Code == 127:
		return "the shell did not find a command: it must be in the image, on its PATH"
	}
	return ""
}

// privilegeHint returns what to do about a step whose set-user-ID program has complained that it has no effect.
func (a *app) privilegeHint(err error) string {
	var step *solver.StepError
	if a.display == nil || !errors.As(err, &step) || !strings.Contains(strings.Join(a.display.Tail(step.Vertex), "\n"), "no new privileges") {
		return ""
	}
	return "build with --security-opt no-new-privileges=false if set-user-ID programs like sudo may have their effect"
}

// excerpt prints the lines of the Dockerfile that an error is about, and the end of the output of the step.
func (a *app) excerpt(err error) {
	var step *solver.StepError
	var parse *parser.Error
	switch {
	case errors.Is(err, errInterrupted):
	case errors.As(err, &step):
		meta := step.Vertex.Meta()
		a.tail(step)
		if !meta.Pos.IsZero() {
			io.WriteString(a.err, parser.Excerpt(meta.Pos.File, a.dockerfile, meta.Pos.Start, meta.Pos.End))
		}
	case errors.As(err, &parse):
		io.WriteString(a.err, parse.Excerpt(a.dockerfile))
	}
}

// tail prints the last output of a step under its name.
func (a *app) tail(step *solver.StepError) {
	if a.display == nil {
		return
	}
	lines := a.display.Tail(step.Vertex)
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(a.err, "------\n > %s:\n%s\n------\n", step.Vertex.Meta().Label, strings.Join(lines, "\n"))
}

// fileError shortens the errors of files that the command line names.
func fileError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	return err
}
