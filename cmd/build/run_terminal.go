package main

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/sandbox"
)

// connect connects the standard streams of a container with ours, and passes on to it the signals that this process
// gets. The function it returns gives the terminal back; it is for when the container has ended, or will never start.
//
// A container never gets our terminal itself, from which it could read what is typed for others: what is one is
// copied, through a pipe or, with --tty, through a terminal of the container's own.
func (a *app) connect(o *runOptions, spec *executor.RunSpec) (restore func(), err error) {
	keyboard, screen := terminalOf(a.in), terminalOf(a.stdio.out)
	if o.tty && o.interactive && keyboard == nil {
		return nil, usagef("leave out -t where the input comes from a file or a pipe", "the input device is not a TTY")
	}
	spec.Stdout, spec.Stderr = copied(a.stdio.out), copied(a.err)
	started := make(chan struct{})
	if o.interactive {
		spec.Stdin = a.in
		if keyboard != nil {
			spec.Stdin = &inputFrom{started, keyboard}
		}
	}
	forward := forwarder(o.tty)
	restore = func() {}
	if !o.tty {
		spec.Started = func(p *sandbox.Process) {
			close(started)
			go forward(p)
		}
		return restore, nil
	}
	window := keyboard
	if window == nil {
		window = screen
	}
	size := sizeOf(window)
	spec.Terminal = &size
	spec.Stdout = &outputTo{started, spec.Stdout}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	var before *term.State
	spec.Started = func(p *sandbox.Process) {
		if o.interactive {
			before, _ = term.MakeRaw(int(keyboard.Fd())) // not in the background, and there is no input then
		}
		close(started)
		go forward(p)
		go func() {
			for ; ; <-resized { // once at first: it may have changed since
				_ = p.Resize(sizeOf(window))
			}
		}()
	}
	return func() {
		if before != nil {
			_ = term.Restore(int(keyboard.Fd()), before)
		}
	}, nil
}

// terminalOf returns the terminal that a stream is, or nil.
func terminalOf(stream any) *os.File {
	if f, ok := stream.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// copied returns a writer to out that is no file, if out is a terminal: then a pipe leads to it.
func copied(out io.Writer) io.Writer {
	if terminalOf(out) == nil {
		return out
	}
	return struct{ io.Writer }{out}
}

// sizeOf returns the size of a terminal; nil has none.
func sizeOf(f *os.File) (w sandbox.Window) {
	if f == nil {
		return w
	}
	if cols, rows, err := term.GetSize(int(f.Fd())); err == nil {
		w = sandbox.Window{Rows: uint16(rows), Cols: uint16(cols)}
	}
	return w
}

// An inputFrom is input that nobody reads before the container has started: until then the keys are for this process.
type inputFrom struct {
	started <-chan struct{}
	io.Reader
}

func (r *inputFrom) Read(b []byte) (int, error) {
	<-r.started
	return r.Reader.Read(b)
}

// An outputTo is output that nobody sees before the terminal is ready for the answers to it: who sees a prompt may type
// at once, and a key like Ctrl-C must not be for this process then.
type outputTo struct {
	started <-chan struct{}
	io.Writer
}

func (w *outputTo) Write(b []byte) (int, error) {
	<-w.started
	return w.Writer.Write(b)
}

// forwarder collects the signals that this process gets, and returns the function that passes them on. The size of our
// terminal is not the container's when it has a terminal of its own.
func forwarder(tty bool) func(*sandbox.Process) {
	list := []os.Signal{
		syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGINT, syscall.SIGQUIT,
	}
	if !tty {
		list = append(list, syscall.SIGWINCH)
	}
	ours := make(chan os.Signal, 16)
	signal.Notify(ours, list...)
	return func(p *sandbox.Process) {
		for s := range ours {
			_ = p.Signal(s)
		}
	}
}
