package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// What parent and child agree on.
const (
	childName = "build-sandbox" // argv[0] of the child
	planFD    = 3               // holds the Spec
	reportFD  = 4               // takes a failure; closed by exec
	networkFD = 5               // for NetworkDefault: a namespace to join, or a socket that takes what a new one comes with
)

// Main carries out a Spec and never returns, if this process is one that Start made;
// otherwise it does nothing. It belongs first in func main of every program that uses this package.
func Main() {
	if len(os.Args) > 3 && os.Args[0] == initName {
		mainInit(os.Args[1], os.Args[2], os.Args[3:])
	}
	if len(os.Args) != 1 {
		return
	}
	if os.Args[0] == stepName {
		mainStep()
	}
	if os.Args[0] != childName {
		return
	}
	// Credentials, parent-death signal and no_new_privs belong to a thread, and the
	// thread that calls exec is the one that lives on.
	runtime.LockOSThread()
	giveUp(child())
}

// giveUp reports err and ends this process.
func giveUp(err error) {
	b, _ := json.Marshal(newFailure(err)) // strings and a number
	unix.Write(reportFD, b)
	os.Exit(1)
}

// inherit takes over what the parent hands on: the plan.
func inherit() (*plan, error) {
	// Of all that was inherited, only the standard streams outlive the exec.
	if err := unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close_range: %w", err)
	}
	plan, err := readPlan()
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	return plan, nil
}

// child becomes the process of the Spec, or returns why it cannot.
func child() error {
	plan, err := inherit()
	if err != nil {
		return err
	}
	if plan.Chroot {
		return plan.supervise()
	}
	spec := plan.Spec
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("setsid: %w", err)
	}
	// It comes first: when it fails, the folders of the root are as they were.
	if err := plan.enterNetwork(); err != nil {
		return err
	}
	if err := spec.enterRoot(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name %q: %w", spec.Hostname, err)
	}
	if err := plan.openTerminal(); err != nil {
		return err
	}
	if err := spec.apply(); err != nil {
		return err
	}
	if err := plan.becomeUser(); err != nil {
		return err
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	return plan.exec()
}

// A plan is what the child gets: the Spec, and what the parent made of it.
type plan struct {
	*Spec
	Filter []byte `json:"filter,omitempty"` // a seccomp.Filter
	Join   bool   `json:"join,omitempty"`   // what networkFD is
	Raw    raw    `json:"raw"`
	// Listener is the descriptor of a socket that takes the listener of the filter, with OneUID.
	Listener int `json:"listener,omitempty"`
	// Console is that of a socket that takes the two ends of Terminal.
	Console int `json:"console,omitempty"`
}

// raw holds the words of a Spec that a user writes and that need not be UTF-8, which is all that a JSON string can carry.
type raw struct {
	Args, Env [][]byte
	Cwd       []byte
}

func rawOf(s *Spec) raw {
	r := raw{Cwd: []byte(s.Cwd)}
	for _, a := range s.Args {
		r.Args = append(r.Args, []byte(a))
	}
	for _, e := range s.Env {
		r.Env = append(r.Env, []byte(e))
	}
	return r
}

// restore puts the words back into s.
func (r raw) restore(s *Spec) {
	for i, a := range r.Args {
		s.Args[i] = string(a)
	}
	for i, e := range r.Env {
		s.Env[i] = string(e)
	}
	s.Cwd = string(r.Cwd)
}

func readPlan() (*plan, error) {
	var st unix.Stat_t
	if err := unix.Fstat(planFD, &st); err != nil {
		return nil, err
	}
	b := make([]byte, st.Size)
	if _, err := unix.Pread(planFD, b, 0); err != nil {
		return nil, err
	}
	unix.Close(planFD)
	p := new(plan)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, err
	}
	p.Raw.restore(p.Spec)
	return p, nil
}

// enterRoot builds the file system of the plan and makes it the only one there is.
func (s *Spec) enterRoot() error {
	unix.Umask(0o022)
	// Nothing of what follows may reach the mount namespace that ours was copied from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	mounts := make([]int, len(s.Mounts))
	for i := range s.Mounts {
		var err error
		if mounts[i], err = s.Mounts[i].open(s.Root.Target); err != nil {
			return fmt.Errorf("mount on %s: %w", s.Mounts[i].Target, err)
		}
	}
	fd, err := s.Root.mount()
	if err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	root := tree(fd)
	if err := root.mountSystem(s); err != nil {
		return err
	}
	for i, m := range s.Mounts {
		if err := root.attachMount(m, mounts[i]); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		unix.Close(mounts[i])
	}
	// It is opened before the root changes hands, because here no link of the image can lead out.
	cwd, err := root.place(s.Cwd, folder)
	if err != nil {
		return fmt.Errorf("working directory %s: %w", s.Cwd, err)
	}
	if s.ReadOnly {
		if err := root.protectRoot(); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	if err := root.pivot(); err != nil {
		return err
	}
	if err := unix.Fchdir(cwd); err != nil {
		return fmt.Errorf("working directory %s: %w", s.Cwd, err)
	}
	unix.Close(cwd)
	unix.Close(fd)
	return nil
}

// dieWithParent asks for SIGKILL when the parent ends. The parent asked for it before,
// but changed credentials cancel that.
func dieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the parent: %w", err)
	}
	// The parent may be gone already. It is of another pid namespace, so getppid says 0
	// anyhow; but it is the only one who reads our report.
	fds := []unix.PollFd{{Fd: reportFD}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return fmt.Errorf("die with the parent: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		return errors.New("die with the parent: it is gone")
	}
	return nil
}

// A failure is what the child reports: an error as plain data.
type failure struct {
	Exec    string        `json:"exec,omitempty"`    // Name of an ExecError
	Network bool          `json:"network,omitempty"` // whether it is a NetworkError
	Text    string        `json:"text"`
	Errno   syscall.Errno `json:"errno,omitempty"`
}

func newFailure(err error) failure {
	var f failure
	var execErr *ExecError
	if errors.As(err, &execErr) {
		f.Exec, err = execErr.Name, execErr.Err
	}
	var netErr *NetworkError
	if errors.As(err, &netErr) {
		f.Network, err = true, netErr.Err
	}
	errors.As(err, &f.Errno)
	f.Text = err.Error()
	return f
}

// err returns the error that the failure was made of, as the parent's caller sees it.
func (f failure) err() error {
	switch {
	case f.Exec != "":
		return &ExecError{Name: f.Exec, Err: &childError{f.Text, f.Errno}}
	case f.Network:
		return &NetworkError{&childError{f.Text, f.Errno}}
	}
	return fmt.Errorf("sandbox: %w", &childError{f.Text, f.Errno})
}

// A childError is an error that happened in the child.
type childError struct {
	text  string
	errno syscall.Errno
}

func (e *childError) Error() string { return e.text }

func (e *childError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}
