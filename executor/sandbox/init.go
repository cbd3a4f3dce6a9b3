package sandbox

import (
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argv[0] of this program as pid 1 of a sandbox with Spec.Init. The limits for the command, its file
// and its arguments follow.
const initName = "build-init"

// late are the limits that only the command gets: this program would not run under them.
var late = []string{"data", "nproc"}

// execInit becomes the pid 1 that starts the command. It executes this program once more, since the process as it is
// has threads that kept the privileges which this one gave up.
func (s *Spec) execInit(file string) error {
	if _, err := unix.FcntlInt(reportFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	limits, err := json.Marshal(s.lateLimits())
	if err != nil {
		return err
	}
	// The file is one that nobody can write to, see self.
	err = syscall.Exec("/proc/self/exe", append([]string{initName, string(limits), file}, s.Args...), s.Env)
	if err == unix.ENOENT {
		return errors.New("this program is not linked statically (CGO_ENABLED=0), and the image has not its libraries")
	}
	return err
}

func (s *Spec) lateLimits() []Rlimit {
	list := []Rlimit{}
	for _, r := range s.Limits.Rlimits {
		if slices.Contains(late, r.Name) {
			list = append(list, r)
		}
	}
	return list
}

// mainInit starts the command, passes signals on to it, reaps all processes that have lost their parents, and
// ends as the command does.
func mainInit(limits, file string, args []string) {
	runtime.LockOSThread() // for ptrace
	unix.CloseOnExec(reportFD)
	var list []Rlimit
	if err := json.Unmarshal([]byte(limits), &list); err != nil {
		giveUp(err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	command, err := os.StartProcess(file, args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: ownsTerminal(), Ptrace: len(list) > 0},
	})
	if err != nil {
		giveUp(&ExecError{Name: args[0], Err: errors.Unwrap(err)}) // a PathError
	}
	if err := limitStopped(command.Pid, list); err != nil {
		giveUp(err)
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
		if err := r.set(pid); err != nil {
			return err
		}
	}
	return unix.PtraceDetach(pid)
}

// ownsTerminal reports whether standard input is the terminal of the session that this process leads.
func ownsTerminal() bool {
	session, err := unix.IoctlGetInt(0, unix.TIOCGSID)
	return err == nil && session == os.Getpid()
}
