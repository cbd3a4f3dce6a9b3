package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An ExecError says that a sandbox was ready but its command could not be executed.
type ExecError struct {
	Name string // Args[0]
	Err  error
}

// Error returns the text that users of other container tools know.
func (e *ExecError) Error() string { return fmt.Sprintf("exec: %q: %v", e.Name, e.Err) }

// Unwrap returns the cause.
func (e *ExecError) Unwrap() error { return e.Err }

// ExitCode returns the status that a shell would give: 127 for a command that
// is missing, 126 for one that is there.
func (e *ExecError) ExitCode() int {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// errNotInPath is exec.ErrNotFound, known as a missing file.
type errNotInPath struct{}

func (errNotInPath) Error() string { return exec.ErrNotFound.Error() }
func (errNotInPath) Unwrap() error { return unix.ENOENT }

// exec executes the command of the plan; it returns only to say why it cannot.
func (p *plan) exec() error {
	s := p.Spec
	file, err := s.findCommand()
	if err != nil {
		return &ExecError{Name: s.Args[0], Err: err}
	}
	resetSignals()
	// Last of all, since the filter is for the command: it may forbid what was needed before.
	if !p.NewPrivileges {
		if err := p.confine(); err != nil {
			return fmt.Errorf("filter system calls: %w", err)
		}
	}
	if s.Init && !s.Chroot {
		return fmt.Errorf("init: %w", s.execInit(file))
	}
	return &ExecError{Name: s.Args[0], Err: syscall.Exec(file, s.Args, s.Env)}
}

// findCommand finds Args[0] as execvp does, with the rights of the user it will run as.
func (s *Spec) findCommand() (string, error) {
	name := s.Args[0]
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		return name, nil
	}
	path := s.getenv("PATH")
	if path == "" {
		return "", errNotInPath{} // and not the working directory, as an empty element means
	}
	var denied error
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + name
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if err == unix.EACCES && denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", errNotInPath{}
}

// executable returns why file cannot be executed.
func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	return unix.Faccessat2(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

// getenv returns the value of a variable of the plan; the last one of a name counts.
func (s *Spec) getenv(name string) (value string) {
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// resetSignals undoes what exec would hand on: signals that our caller ignores or
// blocks. From here on this process must not need the Go scheduler any more.
func resetSignals() {
	const last, setSize = 64, 8
	type action struct { // of the kernel, on amd64 and arm64
		handler, flags, restorer uintptr
		mask                     uint64
	}
	const ignore = 1
	for n := uintptr(1); n <= last; n++ {
		var a action
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&a)), setSize, 0, 0)
		if a.handler == ignore {
			a = action{}
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&a)), 0, setSize, 0, 0)
		}
	}
	var none uint64
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, setSize, 0, 0)
}
