package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Space is what the namespaces of a sandbox depend on. Before they get a root, those of the same Space are alike.
type Space struct {
	Network    Network
	Privileged bool  // see Spec
	ShmSize    int64 // see Spec
}

// Space returns the Space of s.
func (s *Spec) Space() Space { return Space{s.Network, s.Privileged, s.ShmSize} }

// A stage is a thread of this process that stands where the child will start: in the namespaces of the sandbox, all but
// that of processes, with the root put together but not entered. What can be done
// here is done here, in ordinary Go; the child inherits it.
type stage struct {
	network *network
	// mounts holds the mount namespace. Without it the kernel would take that apart, with all that is mounted, before it says that the
	// last process has ended.
	mounts int
	// system is where /sys, /dev and /proc are put together, before there is a root. Nothing else is below it.
	system tree
	root   tree // -1 before it is there
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

// newStage moves this thread to new namespaces with the network n, and makes there what sp says. What is of a plan comes
// later, with set.
func newStage(sp Space, n *network) (*stage, error) {
	if _, err := home(); err != nil { // from inside, there is no way to find it
		return nil, err
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if err := unix.Unshare(all); err != nil {
		return nil, fmt.Errorf("new namespaces: %w", err)
	}
	st := &stage{network: n, mounts: -1, system: -1, root: -1, proc: -1}
	if err := st.begin(sp); err != nil {
		st.close()
		st.end()
		return nil, err
	}
	return st, nil
}

// begin makes what belongs to the Space.
func (st *stage) begin(sp Space) (err error) {
	if err := st.network.enter(sp.Network); err != nil {
		return err
	}
	unix.Umask(0o022)
	// Nothing of what follows may reach the mount namespace that ours was copied from. What happens there reaches ours: a spare may
	// wait for long, and must neither miss a disk that is mounted nor hold one that is not any more.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("follow the mounts of the host: %w", err)
	}
	const own = "/proc/thread-self/ns/mnt"
	if st.mounts, err = unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("%s: %w", own, err)
	}
	mnt, err := emptyFS(0)
	if err != nil {
		return fmt.Errorf("a place for /sys, /dev and /proc: %w", err)
	}
	st.system = tree(mnt)
	// No copy of a folder that holds its place has it.
	if err := unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_UNBINDABLE}); err != nil {
		return fmt.Errorf("a place for /sys, /dev and /proc: %w", err)
	}
	// Mounts can only be made below one that is attached. On the root it is in the way of no path but
	// one that comes there by "..", which Start takes out of the one that is used before it is moved.
	if err := st.moveSystem("/"); err != nil {
		return err
	}
	return st.mountSystem(sp)
}

// moveSystem attaches system to a folder.
func (st *stage) moveSystem(dir string) error {
	if err := unix.MoveMount(int(st.system), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("a place for /sys, /dev and /proc: %w", err)
	}
	return nil
}

// set puts together on st what is of the plan s: its name and its root. Afterwards st is good for s only, even when it fails.
func (st *stage) set(s *Spec) error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set the host name %q: %w", s.Hostname, err)
	}
	// From below the root it goes with all that the child leaves behind; on top of "/", only it would go.
	if err := st.moveSystem(s.Root.Target); err != nil {
		return err
	}
	mounts := make([]int, len(s.Mounts))
	for i := range s.Mounts {
		var err error
		if mounts[i], err = s.Mounts[i].open(s.Root.Target); err != nil {
			closeFDs(mounts[:i])
			return fmt.Errorf("mount on %s: %w", s.Mounts[i].Target, err)
		}
	}
	defer closeFDs(mounts)
	fd, err := s.Root.mount()
	if err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	st.root = tree(fd)
	return st.furnish(s, mounts)
}

// furnish mounts everything below the root, and makes the working directory.
func (st *stage) furnish(s *Spec, mounts []int) error {
	for _, name := range systemFolders {
		mnt, err := st.system.open(name, strict)
		if err == nil {
			err = st.root.mountFolder(name, mnt)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
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

// admit leaves st to a process with those capabilities.
func (st *stage) admit(caps []string) {
	mounts := slices.Contains(caps, "CAP_SYS_ADMIN")
	st.network.exposed = mounts || slices.Contains(caps, "CAP_NET_ADMIN")
	if mounts {
		st.end() // what it mounts may have files to write, up to its unmount: that of a disk in a file
	}
}

// end takes this thread away and lets go of the mounts. If no process is left there, it waits until the kernel has taken them
// apart; otherwise that comes with the end of the last one. It may be called more than once.
func (st *stage) end() {
	leave() // or they would be there for as long as the thread
	if st.mounts >= 0 {
		unix.Close(st.mounts)
		st.mounts = -1
	}
}

// close lets go of what is for the child.
func (st *stage) close() {
	for _, fd := range []int{int(st.system), int(st.root), st.proc} {
		if fd >= 0 {
			unix.Close(fd)
		}
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

// leave takes this thread back to the mounts of this process: pivot_root changes the root of every thread that has the old one, and
// what we open must not be a file of the sandbox.
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
