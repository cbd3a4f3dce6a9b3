package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

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

// getenv returns the value of a variable of the plan; the last one of a name counts.
func (s *Spec) getenv(name string) (value string) {
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}
