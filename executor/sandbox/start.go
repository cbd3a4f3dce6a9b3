package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

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
	spares spares
}

// Close lets go of what the Runner keeps. It does not affect sandboxes that still run.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.endSpares()
	r.mu.Lock()
	free := r.free
	r.free = nil
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
	stage   *stage // nil for a chroot
	process *os.Process
	streams streams
	ended   chan struct{} // closed when status and err are set
	done    chan struct{} // closed when all is gone

	group    *group   // nil where there is no limit
	lifeline *os.File // of a chroot: closing it kills all that is in it

	// With Spec.OneUID: who answers the calls of the filter, and, while it starts, how its listener comes; the child
	// sends it through the second one.
	users    *oneuid.Supervisor
	listener [2]*os.File
	began    time.Time

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
	if !spec.Chroot {
		target, err := filepath.EvalSymlinks(spec.Root.Target)
		if err != nil {
			return nil, fmt.Errorf("sandbox: place of the root: %w", err)
		}
		spec.Root.Target = target
	}
	p := &Process{runner: r, ended: make(chan struct{}), done: make(chan struct{})}
	started := make(chan error)
	r.onStage(&spec, func(st *stage, err error) {
		if err != nil {
			started <- named(err)
			return
		}
		p.stage = st
		p.run(ctx, spec, stdio, started)
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Ended waits until the process has ended, the kernel has killed the others, and all their output is written. Its files are as they
// will be. What we have mounted is still being taken apart, which changes none of them; Wait waits for that.
func (p *Process) Ended() (Status, error) {
	<-p.ended
	return p.status, p.err
}

// Wait waits until nothing is left of the sandbox: its process has ended, the kernel
// has killed the others, and all their output is written. It may be called more than
// once. If ctx ended the process, the error is the cause.
func (p *Process) Wait() (Status, error) {
	<-p.done
	return p.status, p.err
}

// LinkOwner returns, after Ended, who owns a symbolic link or a pipe that the process has made or changed, where
// Spec.OneUID has been set: they can carry no mark. The path in the root is name; the file is base in the folder dir.
func (p *Process) LinkOwner(dir int, base, name string) (owners.Mark, error) {
	if p.users == nil {
		return owners.Mark{}, nil
	}
	return p.users.LinkOwner(dir, base, name)
}

// Signal sends s to the process. Being pid 1 of its namespace, it only gets what it
// handles, and SIGKILL and SIGSTOP.
func (p *Process) Signal(s os.Signal) error { return p.process.Signal(s) }

// kill kills all that is in the sandbox.
func (p *Process) kill() {
	if p.lifeline != nil {
		p.lifeline.Close()
		return
	}
	p.process.Kill() // pid 1 of its namespace, so the kernel kills the others
}

// run is the life of a sandbox. It stays on one thread because the child asked to be
// killed when the thread that forked it ends.
func (p *Process) run(ctx context.Context, spec Spec, stdio Stdio, started chan<- error) {
	defer close(p.done)
	report, err := p.launch(spec, stdio)
	if err != nil {
		p.tidy()
		started <- named(err)
		return
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if p.stage != nil {
		p.stage.admit(spec.Caps)
	}
	if err := p.ready(ctx, &spec, report); err != nil {
		p.kill()
		p.process.Wait()
		if p.users != nil {
			p.users.Wait()
		}
		p.tidy()
		started <- named(err)
		return
	}
	if p.terminal != nil {
		p.terminal.carry(stdio.In, stdio.Out)
	}
	p.streams.feed()
	started <- nil
	p.status, p.err = p.wait(ctx)
	if p.users != nil {
		if err := p.users.Wait(); p.err == nil && err != nil {
			p.err = named(err)
		}
	}
	close(p.ended)
	p.tidy()
}

// named says where err is from, unless its text is known to users of other tools.
func named(err error) error {
	var exec *ExecError
	var network *NetworkError
	if errors.As(err, &exec) || errors.As(err, &network) {
		return err
	}
	return fmt.Errorf("sandbox: %w", err)
}

// ready waits until the child has executed its command, or returns why it has not.
func (p *Process) ready(ctx context.Context, spec *Spec, report *os.File) error {
	defer report.Close()
	// It comes before the report, since an init needs answers before it can execute the command.
	if err := p.emulate(ctx, spec); err != nil {
		return err
	}
	return readReport(report, spec)
}

// launch starts the child, and returns where it reports that its last exec has failed.
func (p *Process) launch(spec Spec, stdio Stdio) (report *os.File, err error) {
	defer p.streams.release()
	if p.stage != nil {
		defer p.stage.close() // what is mounted there ends with the process
	}
	var h handover
	if err := p.connect(&h, &spec, stdio); err != nil {
		return nil, err
	}
	defer func() { p.terminal = h.terminal }() // which may come with the root, in spawn
	h.groups, err = p.groupFor(spec.Limits)
	defer closeAll(h.groups)
	if err != nil {
		return nil, err
	}
	if spec.OneUID {
		if p.listener, err = socketPair("listener"); err != nil {
			return nil, err
		}
		h.listener = p.listener[1]
	}
	if len(spec.Links) > 0 {
		if p.began, err = oneuid.Tick(); err != nil {
			return nil, err
		}
	}
	if report, h.report, err = os.Pipe(); err != nil {
		return nil, err
	}
	defer h.report.Close()
	if spec.Chroot {
		p.process, p.lifeline, err = startSupervisor(spec, h)
	} else {
		p.process, err = spawn(&spec, &h, p.stage)
	}
	if err != nil {
		report.Close()
		return nil, err
	}
	return report, nil
}

// connect gives the child its streams, unless they are a terminal of its own root, which is not there yet.
func (p *Process) connect(h *handover, spec *Spec, stdio Stdio) error {
	if spec.Terminal == nil {
		err := p.streams.open(stdio)
		h.streams = p.streams.files
		return err
	}
	if !spec.Chroot {
		return nil
	}
	t, err := spec.hostTerminal()
	if err == nil {
		h.attach(t)
	}
	return err
}

// tidy gives back what the sandbox had beside its process, which has ended.
func (p *Process) tidy() {
	p.streams.wait() // for a process that was never started, or not waited for
	if p.stage != nil {
		p.stage.end()
		p.runner.release(p.stage.network)
	}
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

// usageOf returns what wait4 tells of a process and of those it has waited for.
func usageOf(state *os.ProcessState) Usage {
	u := Usage{CPU: state.UserTime() + state.SystemTime()}
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		u.Read, u.Written = r.Inblock*512, r.Oublock*512
		// The kernel counts to a process what it had before its exec: that is ours, since it shares our memory until then.
		var ours syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ours); err == nil && r.Maxrss > ours.Maxrss {
			u.Memory = r.Maxrss << 10
		}
	}
	return u
}

// wait waits for the end of the process and of its streams.
func (p *Process) wait(ctx context.Context) (Status, error) {
	state, err := p.process.Wait()
	if err == nil {
		err = p.streams.wait()
	}
	if err != nil {
		return Status{}, fmt.Errorf("sandbox: %w", err)
	}
	ws := state.Sys().(syscall.WaitStatus)
	status := Status{Usage: usageOf(state)}
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
