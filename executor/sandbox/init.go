package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argv[0] of this program as pid 1 of a sandbox with Spec.Init. The limits for the command, its file
// and its arguments follow.
const initName = "build-init"

// hasInit reports whether pid 1 of s is an init of ours. A chroot has a supervisor, which does as much.
func (s *Spec) hasInit() bool { return s.Init && !s.Chroot }

// ownProgram returns a descriptor of a copy of this program, to execute: what a sandbox could reach through /proc/1/exe must
// not be the file of the host.
var ownProgram = sync.OnceValues(func() (int, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer exe.Close()
	return programFile(exe)
})

// execInit executes the init, which starts the command of s. It takes no trampoline: it unblocks the signals by itself.
func (p *program) execInit(s *Spec, listener int) error {
	file, err := ownProgram()
	if err != nil {
		return err
	}
	_, late := s.rlimits()
	limits, err := json.Marshal(late)
	if err != nil {
		return err
	}
	argv := p.texts(append([]string{initName, string(limits), ""}, s.Args...))
	p.find(s, &argv[2])
	if err := p.beforeExec(s, listener); err != nil {
		return err
	}
	c := p.execute("init", file, argv, s.Env)
	c.known, c.meaning = unix.ENOENT, "this program is not linked statically (CGO_ENABLED=0), and the image has not its libraries"
	return nil
}

// rlimits returns the limits of s in two parts: those that the child sets, and those that only the command gets, because
// an init would not run under them. Of the latter the child raises the hard limit, where that takes a privilege.
func (s *Spec) rlimits() (early, late []Rlimit) {
	for _, r := range s.Limits.Rlimits {
		if !s.hasInit() || !slices.Contains([]string{"data", "nproc"}, r.Name) {
			early = append(early, r)
			continue
		}
		late = append(late, r)
		var have unix.Rlimit
		if unix.Getrlimit(rlimits[r.Name], &have) == nil && r.Hard > have.Max {
			early = append(early, Rlimit{r.Name, have.Cur, r.Hard})
		}
	}
	return early, late
}

// mainInit starts the command, passes signals on to it, reaps all processes that have lost their parents, and
// ends as the command does.
func mainInit(limits, file string, args []string) {
	runtime.LockOSThread() // for ptrace, and for the signals that the command inherits
	unix.CloseOnExec(reportFD)
	var list []Rlimit
	if err := json.Unmarshal([]byte(limits), &list); err != nil {
		giveUp(reportFD, err)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, new(unix.Sigset_t), nil); err != nil {
		giveUp(reportFD, err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	command, err := os.StartProcess(file, args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: ownsTerminal(), Ptrace: len(list) > 0},
	})
	if err != nil {
		giveUp(reportFD, &ExecError{Name: args[0], Err: errors.Unwrap(err)}) // a PathError
	}
	if err := limitStopped(command.Pid, list); err != nil {
		command.Kill() // it must not go on without them
		giveUp(reportFD, err)
	}
	unix.Close(reportFD)
	go func() {
		for s := range signals {
			if s != syscall.SIGCHLD && s != syscall.SIGURG { // the second is the Go runtime's own
				command.Signal(s)
			}
		}
	}()
	ws := waitFor(command.Pid)
	if ws.Signaled() { // the kernel lets nobody end pid 1 by a signal, itself included
		os.Exit(128 + int(ws.Signal()))
	}
	os.Exit(ws.ExitStatus())
}

// limitStopped puts a child, which is traced and so waits before its first instruction, under limits.
func limitStopped(pid int, list []Rlimit) error {
	if len(list) == 0 {
		return nil
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return err
	}
	for _, r := range list {
		if err := unix.Prlimit(pid, rlimits[r.Name], &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("%s: %w", r.what(), err)
		}
	}
	return unix.PtraceDetach(pid)
}

// ownsTerminal reports whether standard input is the terminal of the session that this process leads.
func ownsTerminal() bool {
	session, err := unix.IoctlGetInt(0, unix.TIOCGSID)
	return err == nil && session == os.Getpid()
}
