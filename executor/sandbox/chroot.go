package sandbox

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Without namespaces nobody ends what a step leaves behind, so its process gets a supervisor: this program once more,
// which adopts all that loses its parent, and kills it when the process ends or the builder is gone.

// What a builder and its supervisor agree on.
const (
	supervisorName = "build-sandbox" // argv[0]
	planFD         = 3               // holds the Spec
	errorFD        = 4               // takes what readReport reads
	lifelineFD     = 5               // at its end, the builder wants an end or is gone
	listenerFD     = 6               // only with Spec.OneUID
)

// Main supervises a chroot, or is the init of a sandbox, and never returns, if this process is one that Start made for
// that; otherwise it does nothing. It belongs first in func main of every program that uses this package.
func Main() {
	switch {
	case len(os.Args) == 1 && os.Args[0] == supervisorName:
		giveUp(errorFD, supervise())
	case len(os.Args) > 3 && os.Args[0] == initName:
		mainInit(os.Args[1], os.Args[2], os.Args[3:])
	}
}

// giveUp ends this process, and reports why.
func giveUp(report int, err error) {
	b, _ := json.Marshal(newReport(err)) // strings and a number
	unix.Write(report, b)
	os.Exit(1)
}

// startSupervisor starts the process of s by way of a supervisor, which outlives us for as long as it takes to kill what
// is left. Closing lifeline kills everything.
func startSupervisor(s Spec, h handover) (supervisor *os.Process, lifeline *os.File, err error) {
	file, err := planFile(plan{&s, len(h.groups)})
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	end, lifeline, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer end.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env = []string{supervisorName}, []string{} // nil would be ours
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}     // the keys of the caller's terminal are for the builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = h.streams[0], h.streams[1], h.streams[2]
	cmd.ExtraFiles = []*os.File{file, h.report, end}
	if s.OneUID {
		cmd.ExtraFiles = append(cmd.ExtraFiles, h.listener)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, h.groups...)
	if err := cmd.Start(); err != nil {
		lifeline.Close()
		return nil, nil, err
	}
	return cmd.Process, lifeline, nil
}

// A plan is what a supervisor has to carry out.
type plan struct {
	Spec   *Spec
	Groups int // how many descriptors there are to enter control groups
}

// planFile returns an unnamed file that holds p. A pipe would need a writer once p outgrows its buffer.
func planFile(p plan) (*os.File, error) {
	fd, err := unix.MemfdCreate("sandbox", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	// Not JSON: what a user writes into a command need not be UTF-8.
	if err = gob.NewEncoder(f).Encode(p); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readPlan takes over what the builder hands on.
func readPlan() (*Spec, handover, error) {
	// Of all that was inherited, only the standard streams outlive the exec.
	if err := unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, handover{}, fmt.Errorf("close_range: %w", err)
	}
	f := os.NewFile(planFD, "plan")
	defer f.Close()
	var p plan
	if err := gob.NewDecoder(f).Decode(&p); err != nil {
		return nil, handover{}, fmt.Errorf("read the plan: %w", err)
	}
	h := handover{streams: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, report: os.NewFile(errorFD, "report")}
	next := uintptr(listenerFD)
	if p.Spec.OneUID {
		h.listener = os.NewFile(next, "listener")
		next++
	}
	for range p.Groups {
		h.groups = append(h.groups, os.NewFile(next, "group"))
		next++
	}
	return p.Spec, h, nil
}

// supervise runs the process of the plan. It returns only to say why it cannot.
func supervise() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt processes: %w", err)
	}
	s, h, err := readPlan()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	type result struct {
		process *os.Process
		err     error
	}
	started := make(chan result)
	onThread(func() {
		process, err := spawn(s, &h, nil)
		started <- result{process, err}
		select {} // the process would be killed with its thread
	})
	step := <-started
	if step.err != nil {
		return step.err
	}
	// Whoever reads from our end of a stream, or waits for the report, must not wait for us.
	closeAll(append(h.groups, h.report, h.listener, os.Stdin, os.Stdout, os.Stderr))
	go func() {
		for sig := range signals {
			if sig != syscall.SIGCHLD && sig != syscall.SIGURG { // the second is the Go runtime's own
				step.process.Signal(sig)
			}
		}
	}()
	go func() {
		os.NewFile(lifelineFD, "lifeline").Read(make([]byte, 1))
		killAll()
		endAs(syscall.WaitStatus(syscall.SIGKILL))
	}()
	ws := waitFor(step.process.Pid)
	killAll()
	endAs(ws)
	return nil
}

// forwarded reports whether a signal is for the process. Its terminal sends those of the keys to both.
func forwarded(sig os.Signal, terminal bool) bool {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGURG: // the second is the Go runtime's own
		return false
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		return !terminal
	}
	return true
}

// waitFor reaps children until that one has ended.
func waitFor(pid int) syscall.WaitStatus {
	for {
		var ws syscall.WaitStatus
		switch got, err := syscall.Wait4(-1, &ws, 0, nil); {
		case got == pid && (ws.Exited() || ws.Signaled()):
			return ws
		case err == syscall.ECHILD:
			return syscall.WaitStatus(syscall.SIGKILL) // the lifeline's end was faster
		}
	}
}

// killAll kills every descendant of this process until there is none.
func killAll() {
	for {
		children, all := descendants(os.Getpid())
		for _, pid := range all {
			unix.Kill(pid, unix.SIGKILL)
		}
		// They are dying, so there is an end to wait for. Their own children become ours then.
		for _, pid := range children {
			unix.Wait4(pid, nil, 0, nil)
		}
		if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err == unix.ECHILD {
			return
		}
	}
}

// descendants returns the children of pid, and all processes below it. One that loses its parent meanwhile may be missing.
func descendants(pid int) (children, all []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	below := map[int][]int{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// 7 (a name, with any (letters) 1) S 1 ...
		_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
		var state string
		var parent int
		if _, err := fmt.Sscan(rest, &state, &parent); err == nil {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			below[parent] = append(below[parent], child)
		}
	}
	all = below[pid]
	for i := 0; i < len(all); i++ {
		all = append(all, below[all[i]]...)
	}
	return below[pid], all
}

// endAs ends this process as ws says another ended.
func endAs(ws syscall.WaitStatus) {
	if !ws.Signaled() {
		unix.Exit(ws.ExitStatus())
	}
	n := uintptr(ws.Signal())
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) // it would be ours
	var byDefault [4]uint64                          // a sigaction of zeros
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	runtime.LockOSThread()
	unix.PthreadSigmask(unix.SIG_SETMASK, new(unix.Sigset_t), nil)
	unix.Tgkill(os.Getpid(), unix.Gettid(), ws.Signal()) // to this thread, so that it does not come back from here
	unix.Exit(128 + int(n))
}

// changeRoot makes the folder of the plan the root of this thread alone.
func (s *Spec) changeRoot() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	unix.Umask(0o022)
	fd, err := unix.Open(s.Root.Flat, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root %s: %w", s.Root.Flat, err)
	}
	cwd, err := tree(fd).place(s.Cwd, folder)
	if err != nil {
		return fmt.Errorf("working directory %s: %w", s.Cwd, err)
	}
	if err := unix.Fchdir(fd); err != nil {
		return fmt.Errorf("change to the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Fchdir(cwd); err != nil {
		return fmt.Errorf("working directory %s: %w", s.Cwd, err)
	}
	unix.Close(cwd)
	unix.Close(fd)
	return nil
}

// ChrootCaps returns DefaultCaps without those that lead out of a chroot: who may change the root
// again leaves the first one, and device files reach the host's disks.
func ChrootCaps() []string {
	var keep []string
	for _, c := range DefaultCaps() {
		if c != "CAP_SYS_CHROOT" && c != "CAP_MKNOD" {
			keep = append(keep, c)
		}
	}
	return keep
}

// FillDev makes in dir, an empty folder, what can be made of /dev without a mount. Where device files are
// refused there is only null, as a plain file. Others has further devices, by the names that they get below dir.
func FillDev(dir string, others map[string]string) error {
	for name, source := range others { // while there is no link that could lead elsewhere
		to := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = copyDevice(source, to)
		}
		if err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	for _, l := range devLinks {
		if err := os.Symlink(l.to, filepath.Join(dir, l.name)); err != nil {
			return err
		}
	}
	for _, d := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "shm"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for _, name := range devices {
		err := copyDevice("/dev/"+name, filepath.Join(dir, name))
		if errors.Is(err, unix.EPERM) && name == "null" {
			err = errors.Join(os.WriteFile(filepath.Join(dir, name), nil, 0o666), os.Chmod(filepath.Join(dir, name), 0o666))
		}
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	return nil
}

// copyDevice makes a device file like the one of the host at source, with its rights.
func copyDevice(source, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return err
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return err
	}
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777)
}

// A report is the error of a supervisor as plain data.
type report struct {
	Exec  string        `json:"exec,omitempty"` // Name of an ExecError
	Text  string        `json:"text"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

func newReport(err error) report {
	var f report
	var execErr *ExecError
	if errors.As(err, &execErr) {
		f.Exec, err = execErr.Name, execErr.Err
	}
	errors.As(err, &f.Errno)
	f.Text = err.Error()
	return f
}

// supervisorError returns the error that a supervisor has reported.
func supervisorError(b []byte) error {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("report %q: %w", b, err)
	}
	return r.err()
}

// err returns the error that the report was made of, as the parent's caller sees it.
func (f report) err() error {
	if f.Exec != "" {
		return &ExecError{Name: f.Exec, Err: &childError{f.Text, f.Errno}}
	}
	return &childError{f.Text, f.Errno}
}

// A childError is an error that happened in a supervisor.
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
