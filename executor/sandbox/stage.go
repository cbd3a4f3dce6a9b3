package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A stage is a thread of this process that stands where the child will start: in the namespaces of the sandbox, all but
// that of processes, with the root put together but not entered. What can be done
// here is done here, in ordinary Go; the child inherits it.
type stage struct {
	root tree
	// proc is the place of the new /proc, which only a process in the new namespace can mount; -1 if
	// the old one is there already.
	proc int
	// masks are what will hide parts of the new /proc.
	masks []mask
}

// A mask is a mount for a path below /proc.
type mask struct {
	name string
	mnt  int
}

// onThread runs f on a thread that ends with it, and with the thread what f has done to it. It is never the first thread of this
// process: that one does not end, and is what /proc/self shows.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // another one, since the first is taken
			f()
		}()
		<-done
	}()
}

// set moves this thread to new namespaces with the network n, and builds the root of s there.
func (s *Spec) set(n *network) (*stage, error) {
	if _, err := home(); err != nil { // from inside, there is no way to find it
		return nil, err
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if err := unix.Unshare(all); err != nil {
		return nil, fmt.Errorf("new namespaces: %w", err)
	}
	// It comes first: when it fails, the folders of the root are as they were.
	if err := n.enter(s.Network); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return nil, fmt.Errorf("set the host name %q: %w", s.Hostname, err)
	}
	unix.Umask(0o022)
	// Nothing of what follows may reach the mount namespace that ours was copied from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mounts private: %w", err)
	}
	return s.buildRoot()
}

// buildRoot puts the file system of the plan together.
func (s *Spec) buildRoot() (*stage, error) {
	mounts := make([]int, len(s.Mounts))
	for i := range s.Mounts {
		var err error
		if mounts[i], err = s.Mounts[i].open(s.Root.Target); err != nil {
			closeFDs(mounts[:i])
			return nil, fmt.Errorf("mount on %s: %w", s.Mounts[i].Target, err)
		}
	}
	defer closeFDs(mounts)
	fd, err := s.Root.mount()
	if err != nil {
		return nil, fmt.Errorf("mount the root: %w", err)
	}
	st := &stage{root: tree(fd), proc: -1}
	if err := s.furnish(st, mounts); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

// furnish mounts everything below the root, and makes the working directory.
func (s *Spec) furnish(st *stage, mounts []int) error {
	if err := st.mountSystem(s); err != nil {
		return err
	}
	for i, m := range s.Mounts {
		if err := st.root.attachMount(m, mounts[i]); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	}
	if !strings.HasPrefix(s.Cwd+"/", "/proc/") { // nothing can be made there
		cwd, err := st.root.place(s.Cwd, folder)
		if err != nil {
			return fmt.Errorf("working directory %s: %w", s.Cwd, err)
		}
		unix.Close(cwd)
	}
	if s.ReadOnly {
		if err := st.root.protectRoot(); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	return nil
}

// close lets go of the descriptors.
func (st *stage) close() {
	unix.Close(int(st.root))
	if st.proc >= 0 {
		unix.Close(st.proc)
	}
	for _, m := range st.masks {
		unix.Close(m.mnt)
	}
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// home holds the mount namespace of this process, for threads to go back to.
var home = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/self/ns/mnt") })

// leave takes this thread back to the mounts of this process, so that those of the sandbox are gone when
// its last process is.
func leave() error {
	ns, err := home()
	if err != nil {
		return err
	}
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
}

// newProc reports whether a process in a new namespace may mount a proc of its own. The kernel refuses that to a container whose
// proc has masked parts.
var newProc = sync.OnceValue(func() bool {
	p := new(program)
	p.mountProc()
	p.add("end", unix.SYS_EXIT_GROUP, 0)
	pid, failed, errno := vfork(unix.CLONE_NEWPID, p)
	if errno != 0 {
		return false
	}
	unix.Wait4(pid, nil, 0, nil)
	return failed == nil
})
