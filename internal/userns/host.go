package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A HostError says what this host does not let us do, and what to change.
type HostError struct {
	What  string // "cannot create a user namespace"
	Cause error
	Hint  string // a cause in words, a command, or both; may be empty
}

// Error returns what and why, without the hint.
func (e *HostError) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Cause) }

// Unwrap returns the cause.
func (e *HostError) Unwrap() error { return e.Cause }

const noNamespace = "cannot create a user namespace"

// checkNamespaces looks for settings that forbid every user namespace.
func checkNamespaces() error {
	if _, err := os.Stat("/proc/self/ns/user"); errors.Is(err, fs.ErrNotExist) {
		return &HostError{noNamespace, err, "mount /proc, or use a kernel with CONFIG_USER_NS"}
	}
	if setting("user/max_user_namespaces") == "0" {
		return cloneError(unix.ENOSPC)
	}
	if setting("kernel/unprivileged_userns_clone") == "0" && os.Geteuid() != 0 {
		return cloneError(unix.EPERM)
	}
	return nil
}

// cloneError explains why clone(CLONE_NEWUSER) failed.
func cloneError(err error) error {
	e := &HostError{What: noNamespace, Cause: err}
	switch {
	case errors.Is(err, unix.ENOSPC) && setting("user/max_user_namespaces") == "0":
		e.Hint = "user.max_user_namespaces is 0; try: sudo sysctl -w user.max_user_namespaces=15000"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		e.Hint = "too many user namespaces, or too deeply nested; " +
			"try: sudo sysctl -w user.max_user_namespaces=15000"
	case !errors.Is(err, unix.EPERM):
	case setting("kernel/unprivileged_userns_clone") == "0":
		e.Hint = "kernel.unprivileged_userns_clone is 0; try: sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		e.Hint = appArmorHint
	case status("Seccomp") == "2":
		e.Hint = "the seccomp profile of this container may forbid it; " +
			"try: docker run --security-opt seccomp=unconfined"
	default:
		e.Hint = "the kernel also refuses it in a chroot"
	}
	return e
}

const appArmorHint = "kernel.apparmor_restrict_unprivileged_userns is 1; " +
	"try: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"

// innerError explains why a step inside the new namespace failed. Ubuntu lets everybody
// make a user namespace and then has AppArmor deny what one is made for.
func innerError(step string, err error) error {
	e := &HostError{What: "cannot use a user namespace", Cause: fmt.Errorf("%s: %w", step, err)}
	denied := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	if denied && setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
		e.Hint = appArmorHint
	}
	return e
}

// mapError explains why newuidmap or newgidmap failed.
func mapError(helper string, err error, stderr string) error {
	if stderr = strings.TrimSpace(stderr); stderr != "" {
		err = fmt.Errorf("%w: %s", err, stderr)
	}
	e := &HostError{What: "cannot map subordinate ids", Cause: fmt.Errorf("%s: %w", helper, err)}
	switch {
	case status("NoNewPrivs") == "1":
		e.Hint = "this process has no_new_privs set, so setuid programs have no power; " +
			"start it without (Kubernetes: allowPrivilegeEscalation: true; docker: leave out no-new-privileges)"
	case strings.Contains(stderr, "not allowed"):
		e.Hint = "compare /etc/subuid and /etc/subgid with the ranges above"
	case strings.Contains(stderr, "not permitted"):
		e.Hint = "is the file system of " + helper + " mounted nosuid? otherwise try: sudo chmod u+s " + helper
	}
	return e
}

// setting returns the value of a sysctl, "" if this kernel has none of that name.
func setting(path string) string {
	b, _ := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b))
}

// status returns the value of a line of /proc/self/status.
func status(key string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
