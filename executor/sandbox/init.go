package sandbox

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argv[0] of this program as pid 1 of a sandbox with Spec.Init. The file of the command and its
// arguments follow.
const initName = "build-init"

// execInit becomes the pid 1 that starts the command. It executes this program once more, since the process as it is
// has threads that kept the privileges which this one gave up.
func (s *Spec) execInit(file string) error {
	if _, err := unix.FcntlInt(reportFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	// The file is one that nobody can write to, see self.
	return syscall.Exec("/proc/self/exe", append([]string{initName, file}, s.Args...), s.Env)
}

// mainInit starts the command, passes signals on to it, reaps all processes that have lost their parents, and
// ends as the command does.
func mainInit(file string, args []string) {
	unix.CloseOnExec(reportFD)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	command, err := os.StartProcess(file, args, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: ownsTerminal()},
	})
	if err != nil {
		giveUp(&ExecError{Name: args[0], Err: errors.Unwrap(err)}) // a PathError
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

// ownsTerminal reports whether standard input is the terminal of the session that this process leads.
func ownsTerminal() bool {
	session, err := unix.IoctlGetInt(0, unix.TIOCGSID)
	return err == nil && session == os.Getpid()
}
