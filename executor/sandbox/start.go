package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox/oneuid"
	"github.com/seed0570efb0/build/executor/sandbox/uplink"
	"github.com/seed0570efb0/build/internal/owners"
)

// A Runner starts sandboxes. From one to the next it keeps what takes the kernel long to make. The zero Runner is ready.
type Runner struct {
	// Resolvers answer the DNS queries that processes with NetworkDefault send to uplink.Gateway4.
	Resolvers []netip.AddrPort

	mu     sync.Mutex
	closed bool
	free   []*uplink.Gateway // of namespaces that no sandbox is in, as good as new
}

// Close lets go of what the Runner keeps. It does not affect sandboxes that still run.
func (r *Runner) Close() {
	r.mu.Lock()
	free := r.free
	r.free, r.closed = nil, true
	r.mu.Unlock()
	for _, g := range free {
		g.Close()
	}
}

// Run is Runner.Run for a single sandbox.
func Run(ctx context.Context, spec Spec, stdio Stdio) (Status, error) {
	return (&Runner{closed: true}).Run(ctx, spec, stdio)
}

// Start is Runner.Start for a single sandbox.
func Start(ctx context.Context, spec Spec, stdio Stdio) (*Process, error) {
	return (&Runner{closed: true}).Start(ctx, spec, stdio)
}

// Run starts spec and waits for its end. A nil error promises that status is how the
// process ended by itself. In any case nothing of the sandbox is left when Run
// returns: no process, no mount. Cancelling ctx kills all that is in it.
func (r *Runner) Run(ctx context.Context, spec Spec, stdio Stdio) (Status, error) {
	p, err := r.Start(ctx, spec, stdio)
	if err != nil {
		return Status{}, err
	}
	return p.Wait()
}

// A Process is a sandbox whose process was started.
type Process struct {
	runner  *Runner
	network *network
	cmd     *exec.Cmd
	done    chan struct{} // closed when the fields below are set and all is gone

	group    *group   // nil where there is no limit
	lifeline *os.File // of a chroot: closing it kills all that is in it

	// With Spec.OneUID: who answers the calls of the filter, and, while it starts, how its listener comes; the child
	// sends it through the second one.
	users    *oneuid.Supervisor
	listener [2]*os.File

	terminal *terminal // nil without Spec.Terminal

	status Status
	err    error
}

// Start starts spec. A nil error promises that the process runs (its set-up and its exec
// succeeded), and that it ends when ctx is cancelled; the caller must call Wait. A
// command that cannot be executed is an *ExecError; a network that this host cannot give is
// a *NetworkError.
func (r *Runner) Start(ctx context.Context, spec Spec, stdio Stdio) (*Process, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	n, err := r.newNetwork(&spec)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	p := &Process{runner: r, network: n, done: make(chan struct{})}
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

// LinkOwner returns, after Wait, who owns a symbolic link or a pipe that the process has made or changed, where
// Spec.OneUID has been set: they can carry no mark. The path in the root is name; the file is base in the folder dir.
func (p *Process) LinkOwner(dir int, base, name string) (owners.Mark, error) {
	if p.users == nil {
		return owners.Mark{}, nil
	}
	return p.users.LinkOwner(dir, base, name)
}

// Signal sends s to the process. Being pid 1 of its namespace, it only gets what it
// handles, and SIGKILL and SIGSTOP.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// kill kills all that is in the sandbox.
func (p *Process) kill() {
	if p.lifeline != nil {
		p.lifeline.Close()
		return
	}
	p.cmd.Process.Kill() // pid 1 of its namespace, so the kernel kills the others
}

// run is the life of a sandbox. It stays on one thread because the child asked to be
// killed when the thread that forked it ends.
func (p *Process) run(ctx context.Context, spec Spec, stdio Stdio, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	report, err := p.launch(spec, stdio)
	if err != nil {
		p.tidy()
		started <- fmt.Errorf("sandbox: %w", err)
		return
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if err := p.ready(ctx, &spec, report, stdio); err != nil {
		p.kill()
		p.cmd.Wait()
		if p.users != nil {
			p.users.Wait()
		}
		p.tidy()
		started <- err
		return
	}
	started <- nil
	p.status, p.err = p.wait(ctx)
	if p.users != nil {
		if err := p.users.Wait(); p.err == nil && err != nil {
			p.err = fmt.Errorf("sandbox: %w", err)
		}
	}
	p.tidy()
	close(p.done)
}

// ready waits until the child has executed its command, or returns why it has not.
func (p *Process) ready(ctx context.Context, spec *Spec, report *os.File, stdio Stdio) error {
	defer report.Close()
	if err := p.runner.connect(p.network); err != nil {
		return fmt.Errorf("sandbox: network: %w", err)
	}
	// It comes before the report, for which an Init needs answers.
	if err := p.emulate(ctx, spec); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := readReport(report); err != nil {
		return err
	}
	if p.terminal == nil || ctx.Err() != nil { // a child that was killed may have sent none
		return nil
	}
	if err := p.terminal.carry(stdio.In, stdio.Out); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// launch starts the child, and returns where it reports what fails before its exec.
func (p *Process) launch(spec Spec, stdio Stdio) (report *os.File, err error) {
	doors, err := p.groupFor(spec.Limits)
	defer closeAll(doors)
	if err != nil {
		return nil, err
	}
	first := lifelineFD // or networkFD: a chroot has no network of its own
	if spec.Chroot || p.network.childFile() != nil {
		first++
	}
	for i := range doors {
		spec.Limits.Groups = append(spec.Limits.Groups, first+i)
	}
	exe, err := self()
	if err != nil {
		return nil, err
	}
	filter, err := spec.filter()
	if err != nil {
		return nil, err
	}
	what := &plan{Spec: &spec, Filter: filter, Join: p.network.gateway != nil}
	if spec.OneUID {
		if p.listener, err = socketPair("listener"); err != nil {
			return nil, err
		}
		what.Listener = first + len(doors)
	}
	if p.terminal, err = newTerminal(&spec); err != nil {
		return nil, err
	}
	if p.terminal != nil {
		what.Console = first + len(doors)
		if spec.OneUID {
			what.Console++
		}
	}
	plan, err := planFile(what)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	report, child, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer child.Close()
	defer func() {
		if err != nil {
			report.Close()
		}
	}()

	cmd := exec.Command(exe)
	p.cmd = cmd
	cmd.Args = []string{childName}
	cmd.Env = []string{}                     // nil would be ours
	cmd.ExtraFiles = []*os.File{plan, child} // planFD, reportFD
	if f := p.network.childFile(); f != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f) // networkFD
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: spec.cloneFlags(), Pdeathsig: syscall.SIGKILL}
	if spec.Chroot {
		// The supervisor outlives us for as long as it takes to kill what is left.
		cmd.SysProcAttr.Pdeathsig = 0
		end, err := p.tie(cmd)
		if err != nil {
			return nil, err
		}
		defer end.Close()
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, doors...)
	if spec.OneUID {
		cmd.ExtraFiles = append(cmd.ExtraFiles, p.listener[1])
	}
	if p.terminal != nil {
		p.terminal.attach(cmd)
		return report, cmd.Start()
	}
	cmd.Stdout, cmd.Stderr = stdio.Out, stdio.Err
	if err := attachInput(cmd, stdio.In); err != nil {
		return nil, err
	}
	return report, cmd.Start()
}

// tie gives cmd, a supervisor, the end of a lifeline.
func (p *Process) tie(cmd *exec.Cmd) (end *os.File, err error) {
	if end, p.lifeline, err = os.Pipe(); err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, end) // lifelineFD
	return end, nil
}

// tidy gives back what the sandbox had beside its process, which has ended.
func (p *Process) tidy() {
	p.runner.release(p.network)
	closeAll(p.listener[:])
	if p.terminal != nil {
		p.terminal.close()
	}
	if p.lifeline != nil {
		p.lifeline.Close()
	}
	if p.group != nil {
		p.group.remove()
	}
}

// groupFor makes the control group that limits need, and returns the files by which to enter it.
func (p *Process) groupFor(l Limits) ([]*os.File, error) {
	if !l.inGroup() {
		return nil, nil
	}
	var missing []string
	p.group, missing = newGroup(l)
	// Affinity alone gives processors, if not for good.
	if missing = slices.DeleteFunc(missing, func(c string) bool { return c == "cpuset" }); len(missing) > 0 {
		return nil, fmt.Errorf("no control group for %s", strings.Join(missing, ", "))
	}
	return p.group.doors()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
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

// planFile returns an unnamed file that holds p. A pipe would need a writer once p outgrows its buffer.
func planFile(p *plan) (*os.File, error) {
	p.Raw = rawOf(p.Spec)
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
	if s.Chroot {
		return 0
	}
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

// usageOf returns what wait4 tells of a process and of those it has waited for.
func usageOf(state *os.ProcessState) Usage {
	u := Usage{CPU: state.UserTime() + state.SystemTime()}
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		u.Memory, u.Read, u.Written = r.Maxrss<<10, r.Inblock*512, r.Oublock*512
	}
	return u
}

// wait waits for the end of the process and of its streams.
func (p *Process) wait(ctx context.Context) (Status, error) {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Status{}, fmt.Errorf("sandbox: %w", err)
	}
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	status := Status{Usage: usageOf(p.cmd.ProcessState)}
	if p.group != nil {
		var peak int64
		if peak, status.OutOfMemory = p.group.memory(); peak > 0 {
			status.Usage.Memory = peak
		}
	}
	if !ws.Signaled() {
		status.Code = ws.ExitStatus()
		return status, nil
	}
	n := int(ws.Signal())
	status.Code, status.Signal = 128+n, n
	if ctx.Err() != nil && ws.Signal() == syscall.SIGKILL {
		return status, context.Cause(ctx)
	}
	return status, nil
}
