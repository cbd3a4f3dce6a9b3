package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/seed0570efb0/build/executor/sandbox/oneuid"
	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// Run starts spec and waits for its end. A nil error promises that status is how the
// process ended by itself. In any case nothing of the sandbox is left when Run
// returns: no process, no mount. Cancelling ctx kills all that is in it.
func Run(ctx context.Context, spec Spec, stdio Stdio) (Status, error) {
	p, err := Start(ctx, spec, stdio)
	if err != nil {
		return Status{}, err
	}
	return p.Wait()
}

// A Process is a sandbox whose process was started.
type Process struct {
	cmd   *exec.Cmd
	users *oneuid.Supervisor // with Spec.OneUID
	done  chan struct{}      // closed when the fields below are set and all is gone

	status Status
	err    error
}

// Start starts spec. A nil error promises that the process runs (its set-up and its exec
// succeeded), and that it ends when ctx is cancelled; the caller must call Wait. A
// command that cannot be executed is an *ExecError.
func Start(ctx context.Context, spec Spec, stdio Stdio) (*Process, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go p.run(ctx, spec, stdio, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Wait waits until nothing is left of the sandbox: its process has ended, the kernel
// has killed the others, and all their output is written. It may be called more than
// once. If ctx ended the process, the error is the cause.
func (p *Process) Wait() (Status, error) {
	<-p.done
	return p.status, p.err
}

// LinkOwner returns, after Wait, who owns a symbolic link or a pipe in the upper directory, where Spec.OneUID
// has been set: they can carry no mark. The path from there is name; the file is base in the folder dir.
func (p *Process) LinkOwner(dir int, base, name string) (owners.Mark, error) {
	if p.users == nil {
		return owners.Mark{}, nil
	}
	return p.users.LinkOwner(dir, base, name)
}

// Signal sends s to the process. Being pid 1 of its namespace, it only gets what it
// handles, and SIGKILL and SIGSTOP.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// run is the life of a sandbox. It stays on one thread because the child asked to be
// killed when the thread that forked it ends.
func (p *Process) run(ctx context.Context, spec Spec, stdio Stdio, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	report, socket, err := p.launch(spec, stdio)
	if err != nil {
		started <- fmt.Errorf("sandbox: %w", err)
		return
	}
	defer socket.Close() // nil without Spec.OneUID
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	defer stop()
	err = readReport(report)
	report.Close()
	if err == nil && spec.OneUID {
		err = p.supervise(&spec, socket)
		if ctx.Err() != nil {
			err = nil // it was killed before it had come that far, which wait will tell
		}
		if err != nil {
			p.cmd.Process.Kill()
			err = fmt.Errorf("sandbox: %w", err)
		}
	}
	if err != nil {
		p.cmd.Wait()
		started <- err
		return
	}
	started <- nil
	defer close(p.done)
	p.status, p.err = p.wait(ctx)
	if p.users != nil {
		if err := p.users.Wait(); p.err == nil && err != nil {
			p.err = fmt.Errorf("sandbox: %w", err)
		}
	}
}

// launch starts the child, and returns where it reports what fails before its exec and, with
// Spec.OneUID, where it sends the listener of its filter.
func (p *Process) launch(spec Spec, stdio Stdio) (report, socket *os.File, err error) {
	exe, err := self()
	if err != nil {
		return nil, nil, err
	}
	filter, err := spec.filter()
	if err != nil {
		return nil, nil, err
	}
	plan, err := planFile(&plan{Spec: spec, Filter: filter})
	if err != nil {
		return nil, nil, err
	}
	defer plan.Close()
	report, child, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer child.Close()
	files := []*os.File{plan, child} // planFD, reportFD
	if spec.OneUID {
		var theirs *os.File
		if socket, theirs, err = socketPair(); err != nil {
			report.Close()
			return nil, nil, err
		}
		defer theirs.Close()
		files = append(files, theirs) // listenerFD
	}
	defer func() {
		if err != nil {
			report.Close()
			socket.Close()
		}
	}()

	cmd := exec.Command(exe)
	p.cmd = cmd
	cmd.Args = []string{childName}
	cmd.Env = []string{} // nil would be ours
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: spec.cloneFlags(), Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = stdio.Out, stdio.Err
	if err = attachInput(cmd, stdio.In); err == nil {
		err = cmd.Start()
	}
	return report, socket, err
}

// attachInput makes in the standard input of cmd. Other than os/exec, the end of cmd does
// not wait for a copy from in, since nobody can interrupt its Read.
func attachInput(cmd *exec.Cmd, in io.Reader) error {
	switch in := in.(type) {
	case nil:
	case *os.File:
		cmd.Stdin = in
	default:
		w, err := cmd.StdinPipe() // Wait closes it
		if err != nil {
			return err
		}
		go func() {
			io.Copy(w, in) // fails with EPIPE when the process does not want it
			w.Close()
		}()
	}
	return nil
}

// A plan is what the child gets: the Spec, and what the parent made of it.
type plan struct {
	Spec   Spec   `json:"spec"`
	Filter []byte `json:"filter"` // a seccomp.Filter
}

// planFile returns an unnamed file that holds p. A pipe would need a writer once p outgrows its buffer.
func planFile(p *plan) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("sandbox", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *Spec) cloneFlags() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if s.Network == NetworkNone {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// readReport waits until the child has executed its command, or returns why it has not.
func readReport(report io.Reader) error {
	b, err := io.ReadAll(report)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if len(b) == 0 {
		return nil // exec closed the pipe; or the child was killed, which Wait will tell
	}
	var f failure
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("sandbox: report %q: %w", b, err)
	}
	return f.err()
}

// wait waits for the end of the process and of its streams.
func (p *Process) wait(ctx context.Context) (Status, error) {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Status{}, fmt.Errorf("sandbox: %w", err)
	}
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ws.Signaled() {
		return Status{Code: ws.ExitStatus()}, nil
	}
	n := int(ws.Signal())
	status := Status{Code: 128 + n, Signal: n}
	if ctx.Err() != nil && ws.Signal() == syscall.SIGKILL {
		return status, context.Cause(ctx)
	}
	return status, nil
}
