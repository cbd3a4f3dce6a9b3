package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Without namespaces nobody ends what a step leaves behind, so its process gets a supervisor: the child that Start
// makes adopts all that loses its parent, and kills it when the process ends or the builder is gone.

const (
	stepName   = "build-sandbox-step" // argv[0] of the process that a supervisor starts
	lifelineFD = 5                    // of the supervisor: at its end, the builder wants an end or is gone
)

// supervise runs the process of p. It returns only to say why it cannot.
func (p *plan) supervise() error {
	s := p.Spec
	// The keys of the caller's terminal are for the builder.
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("setsid: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt processes: %w", err)
	}
	files := []*os.File{nil, os.NewFile(reportFD, "report")}
	for i, fd := range s.Limits.Groups {
		files = append(files, os.NewFile(uintptr(fd), "group"))
		s.Limits.Groups[i] = reportFD + 1 + i
	}
	next := &plan{Spec: s, Filter: p.Filter}
	if s.OneUID {
		next.Listener = planFD + len(files)
		files = append(files, os.NewFile(uintptr(p.Listener), "listener"))
	}
	plan, err := planFile(next)
	if err != nil {
		return err
	}
	files[0] = plan
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Env = []string{stepName}, []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	// Whoever reads from our end of a stream, or waits for the report, must not wait for us.
	for _, f := range append(files, os.Stdin, os.Stdout, os.Stderr) {
		f.Close()
	}
	go func() {
		for sig := range signals {
			if sig != syscall.SIGCHLD && sig != syscall.SIGURG { // the second is the Go runtime's own
				cmd.Process.Signal(sig)
			}
		}
	}()
	go func() {
		os.NewFile(lifelineFD, "lifeline").Read(make([]byte, 1))
		killAll()
		endAs(syscall.WaitStatus(syscall.SIGKILL))
	}()
	ws := waitFor(cmd.Process.Pid)
	killAll()
	endAs(ws)
	return nil
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
		for _, pid := range descendants(os.Getpid()) {
			unix.Kill(pid, unix.SIGKILL)
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return
			}
			if pid == 0 {
				break
			}
		}
		time.Sleep(time.Millisecond) // for those that are dying
	}
}

// descendants returns the processes below pid.
func descendants(pid int) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]int{}
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
			children[parent] = append(children[parent], child)
		}
	}
	list := children[pid]
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
	}
	return list
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
	unix.Kill(os.Getpid(), ws.Signal())
	time.Sleep(100 * time.Millisecond)
	unix.Exit(128 + int(n))
}

// step becomes the process of a plan that was made for a supervisor, or returns why it cannot.
func step() error {
	spec, err := inherit()
	if err != nil {
		return err
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("setsid: %w", err)
	}
	if spec.Terminal != nil {
		if err := controlTerminal(); err != nil {
			return err
		}
	}
	if err := spec.changeRoot(); err != nil {
		return err
	}
	if err := spec.apply(); err != nil {
		return err
	}
	if err := spec.becomeUser(); err != nil {
		return err
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	return spec.exec()
}

// changeRoot makes the folder of the plan the root.
func (s *Spec) changeRoot() error {
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
// refused there is only null, as a plain file.
func FillDev(dir string) error {
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
		err := copyDevice(name, filepath.Join(dir, name))
		if errors.Is(err, unix.EPERM) && name == "null" {
			err = errors.Join(os.WriteFile(filepath.Join(dir, name), nil, 0o666), os.Chmod(filepath.Join(dir, name), 0o666))
		}
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	return nil
}

// copyDevice makes a device file like the host's of that name.
func copyDevice(name, to string) error {
	var st unix.Stat_t
	if err := unix.Stat("/dev/"+name, &st); err != nil {
		return err
	}
	if err := unix.Mknod(to, unix.S_IFCHR|0o666, int(st.Rdev)); err != nil {
		return err
	}
	return unix.Chmod(to, 0o666)
}

// mainStep is Main for the process that a supervisor starts.
func mainStep() {
	runtime.LockOSThread()
	giveUp(step())
}
