package userns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A process is the inner process. The goroutine that started it is locked to its thread
// until wait returns: the child's PR_SET_PDEATHSIG watches that thread, not this process.
type process struct{ *os.Process }

// start starts the inner process, or one that only probes. When the error is nil the caller must call wait.
func start(ctx context.Context, m Mode, ids maps, probe bool) (p process, err error) {
	runtime.LockOSThread()
	defer func() {
		if err != nil {
			runtime.UnlockOSThread()
		}
	}()
	var pipes [4]*os.File // as in plan
	defer func() {
		for _, f := range pipes {
			f.Close() // a second time is harmless
		}
	}()
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			return process{}, err
		}
	}
	if p, err = clone(m, pipes, probe); err != nil {
		return process{}, err
	}
	pipes[0].Close()
	pipes[3].Close()
	if err = p.release(ctx, ids, pipes[1], pipes[2]); err != nil {
		p.Kill()
		p.Wait()
		return process{}, err
	}
	return p, nil
}

// clone makes the namespaces and the child, which waits for its maps.
func clone(m Mode, pipes [4]*os.File, probe bool) (process, error) {
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return process{}, err
	}
	envv, err := syscall.SlicePtrFromStrings(environ(m))
	if err != nil {
		return process{}, err
	}
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)
	if m == Root {
		flags = unix.CLONE_NEWNS
	}
	exe, _ := syscall.BytePtrFromString("/proc/self/exe")
	root, _ := syscall.BytePtrFromString("/")
	tmpfs, _ := syscall.BytePtrFromString("tmpfs")
	pl := &plan{
		exe: exe, argv: &argv[0], envv: &envv[0], root: root, tmpfs: tmpfs, parent: uintptr(os.Getpid()),
		flags: flags | uintptr(unix.SIGCHLD), probe: probe,
		go0: pipes[0].Fd(), go1: pipes[1].Fd(), fail0: pipes[2].Fd(), fail1: pipes[3].Fd(),
	}
	syscall.ForkLock.Lock()
	pid, errno := fork(pl)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(pl)
	if errno != 0 && m == Root {
		return process{}, innerError("unshare", errno)
	}
	if errno != 0 {
		return process{}, cloneError(errno)
	}
	p, err := os.FindProcess(pid)
	return process{p}, err
}

// release writes the maps, lets the child go on, and waits until it has executed this program.
func (p process) release(ctx context.Context, ids maps, ready, failed *os.File) error {
	if err := ids.write(ctx, p.Pid); err != nil {
		return err
	}
	if _, err := ready.Write([]byte{0}); err != nil {
		return fmt.Errorf("userns: %w", err)
	}
	b, err := io.ReadAll(failed)
	if err != nil {
		return fmt.Errorf("userns: %w", err)
	}
	if len(b) == 0 {
		return nil
	}
	var f failure
	if _, err := binary.Decode(b, binary.NativeEndian, &f); err != nil {
		return fmt.Errorf("userns: %w", err)
	}
	return innerError(stepNames[f.Step], syscall.Errno(f.Errno))
}

// write writes the maps of process pid.
func (m maps) write(ctx context.Context, pid int) error {
	if m.newuidmap != "" {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return runHelper(ctx, m.newuidmap, pid, m.uids) })
		g.Go(func() error { return runHelper(ctx, m.newgidmap, pid, m.gids) })
		return g.Wait()
	}
	if len(m.uids) == 0 {
		return nil // no user namespace
	}
	// Who gives up setgroups may map the own gid without privilege.
	files := []struct{ name, text string }{
		{"setgroups", "deny"},
		{"uid_map", lines(m.uids)},
		{"gid_map", lines(m.gids)},
	}
	if m.privileged {
		files = files[1:]
	}
	for _, f := range files {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.name), []byte(f.text), 0); err != nil {
			return innerError("map the own id", err)
		}
	}
	return nil
}

// lines returns extents as a uid_map holds them.
func lines(m []extent) string {
	var s strings.Builder
	for _, e := range m {
		fmt.Fprintf(&s, "%d %d %d\n", e.inside, e.outside, e.count)
	}
	return s.String()
}

// runHelper has newuidmap or newgidmap write one map.
func runHelper(ctx context.Context, helper string, pid int, m []extent) error {
	args := append([]string{strconv.Itoa(pid)}, strings.Fields(lines(m))...)
	cmd := exec.CommandContext(ctx, helper, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return mapError(helper, err, stderr.String())
	}
	return nil
}

// wait waits for the inner process and passes signals on meanwhile.
func (p process) wait(ctx context.Context) (int, error) {
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, wanted()...)
	defer signal.Stop(signals)
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGTERM) })
	defer stop()

	done := make(chan struct{})
	var forwarder errgroup.Group
	forwarder.Go(func() error {
		for {
			select {
			case s := <-signals:
				if !fromTerminal(s) {
					p.Signal(s) // fails only when the process has ended
				}
			case <-done:
				return nil
			}
		}
	})
	state, err := p.Wait()
	close(done)
	forwarder.Wait()
	if err != nil {
		return 0, fmt.Errorf("userns: %w", err)
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, errors.New("userns: no wait status")
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// wanted returns the signals to pass on: all that people send, except those that
// this process was told to ignore (nohup), which the inner one ignores as well.
func wanted() []os.Signal {
	var list []os.Signal
	for _, s := range []os.Signal{
		unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH, unix.SIGUSR1, unix.SIGUSR2,
	} {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}

// fromTerminal reports whether s came from a key or a resize of our terminal. Such a
// signal goes to the whole foreground process group, so the inner process has it
// already, and a second Ctrl-C often means "at once". The sender is not known here: a
// foreground process group is taken as proof.
func fromTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT && s != unix.SIGWINCH {
		return false
	}
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
