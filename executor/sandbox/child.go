package sandbox

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
)

// inherited are the descriptors that the child gets, all above reportFD. Only the standard streams and the
// report outlive its exec.
type inherited struct {
	streams  [3]int
	report   int
	groups   []int // to enter the control groups
	listener int   // takes the listener of the filter, with Spec.OneUID
	rules    int   // of scopeRules, for a chroot; or -1

	copies []int // those of them that only the child needs
}

func (in *inherited) close() { closeFDs(in.copies) }

// number returns a descriptor of f above reportFD, or -1 for nil. Any other would be in the way of the streams in the child.
func (in *inherited) number(f *os.File) (int, error) {
	if f == nil {
		return -1, nil
	}
	fd := int(f.Fd())
	if fd > reportFD {
		return fd, nil
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, reportFD+1)
	if err == nil {
		in.copies = append(in.copies, fd)
	}
	return fd, err
}

// program returns what the child does to become the process of s, starting from st, or from this thread's root where
// that is nil.
func (s *Spec) program(st *stage, fds inherited) (*program, error) {
	p := new(program)
	p.dieWithParent()
	p.streams(fds)
	p.add("setsid", unix.SYS_SETSID)
	if s.Terminal != nil { // its keys are signals for this session
		p.add("controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	if st != nil {
		p.enterRoot(st, s)
	}
	if err := p.limit(s, fds.groups); err != nil {
		return p, err
	}
	if err := p.becomeUser(s); err != nil {
		return p, err
	}
	if fds.rules >= 0 {
		p.add("landlock", unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fds.rules), 0)
	}
	if s.hasInit() {
		return p, p.execInit(s, fds.listener)
	}
	return p, p.exec(s, fds.listener)
}

// dieWithParent asks for SIGKILL when the thread ends that forked. A change of credentials cancels that.
func (p *program) dieWithParent() {
	p.add("die with the parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
}

// streams puts the descriptors where they belong, and makes exec close all others.
func (p *program) streams(fds inherited) {
	for to, fd := range append(fds.streams[:], fds.report) {
		p.add("dup3", unix.SYS_DUP3, uintptr(fd), uintptr(to), 0)
	}
	p.add("close_range", unix.SYS_CLOSE_RANGE, reportFD+1, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
}

// enterRoot mounts /proc and makes the stage's root the only file system there is.
func (p *program) enterRoot(st *stage, s *Spec) {
	empty, dot := p.text(""), p.text(".")
	if st.proc >= 0 {
		// It comes before pivot_root: a new proc is only for those who see an old one.
		const fdToFD = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
		mnt := p.mountProc()
		p.add("mount /proc", unix.SYS_MOVE_MOUNT, 0, empty, uintptr(st.proc), empty, fdToFD).from = mnt
	}
	// The working directory comes from the new root, where no link leads out; not even one of /proc.
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: inTree}
	cwd, dir := s.Cwd, new(int32)
	open := p.add("working directory "+cwd, unix.SYS_OPENAT2, uintptr(st.root), p.text(cwd), address(p, how), unsafe.Sizeof(*how))
	// A rename elsewhere on the host makes the kernel unsure about a "..".
	open.to, open.again = dir, unix.EAGAIN

	p.add("change to the root", unix.SYS_FCHDIR, uintptr(st.root))
	// With "." for both, the old root ends up on top of the new one, in no folder of the image.
	p.add("pivot_root", unix.SYS_PIVOT_ROOT, dot, dot)
	p.add("detach the old root", unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	p.add("working directory "+cwd, unix.SYS_FCHDIR).from = dir
	if st.proc >= 0 && !s.Privileged {
		p.protectProc(st.masks)
	}
}

// mountProc makes a proc, attached nowhere yet, for the namespace of the child, and returns where its descriptor will be.
func (p *program) mountProc() *int32 {
	fs, mnt := new(int32), new(int32)
	p.add("mount /proc", unix.SYS_FSOPEN, p.text("proc"), unix.FSOPEN_CLOEXEC).to = fs
	p.add("mount /proc", unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).from = fs
	c := p.add("mount /proc", unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, quiet)
	c.from, c.to = fs, mnt
	return mnt
}

// protectProc does for the new /proc what keepProc does for an old one. That it is no link, nor below one, is known.
func (p *program) protectProc(masks []mask) {
	const recursive = unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	empty := p.text("")
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for _, name := range readOnlyProc {
		if _, ok := procKind(name); !ok {
			continue
		}
		what, path, mnt := "make read-only /proc/"+name, p.text("/proc/"+name), new(int32)
		p.add(what, unix.SYS_OPEN_TREE, atCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).to = mnt
		p.add(what, unix.SYS_MOUNT_SETATTR, 0, empty, recursive, address(p, attr), unsafe.Sizeof(*attr)).from = mnt
		p.add(what, unix.SYS_MOVE_MOUNT, 0, empty, atCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH).from = mnt
	}
	for _, m := range masks {
		p.add("hide "+m.name, unix.SYS_MOVE_MOUNT, uintptr(m.mnt), empty, atCWD, p.text(m.name), unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
}

// limit puts the child, and what it starts, under the limits. Control groups come last, so that the memory that the set-up has
// taken does not count.
func (p *program) limit(s *Spec, groups []int) error {
	early, _ := s.rlimits()
	for _, r := range early {
		lim := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		p.add(r.what(), unix.SYS_PRLIMIT64, 0, uintptr(rlimits[r.Name]), address(p, lim), 0)
	}
	if cpus := s.Limits.CPUSet; cpus != "" {
		set, err := ParseCPUs(cpus)
		if err != nil {
			return fmt.Errorf("run on the processors %s: %w", cpus, err)
		}
		p.add("run on the processors "+cpus, unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(set), address(p, &set))
	}
	for _, fd := range groups {
		p.add("enter the control group", unix.SYS_WRITE, uintptr(fd), p.text("0"), 1)
	}
	return nil
}

// becomeUser gives up every privilege that the plan does not grant.
func (p *program) becomeUser(s *Spec) error {
	// A kernel, or a container around us, may have no keys to give.
	p.add("new session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).forgive = [2]syscall.Errno{unix.ENOSYS, unix.EPERM}
	if s.NewPrivileges {
		// A filter takes no_new_privs or the CAP_SYS_ADMIN that is about to go. Docker's profile lets all that follows pass.
		if err := p.confine(s, -1); err != nil {
			return err
		}
	}
	mask, err := capMask(s.Caps)
	if err != nil {
		return err
	}
	for n := range capCount() {
		if mask&(1<<n) == 0 {
			drop := p.add("drop capabilities", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
			if s.Chroot {
				// Without CAP_SETPCAP, which a chroot may lack, no_new_privs alone keeps exec from regaining anything.
				drop.forgive[0] = unix.EPERM
			}
		}
	}
	if s.Privileged {
		p.add("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	} else if s.UID != 0 {
		mask = 0 // as the change to another user leaves it
	}
	if !s.OneUID {
		p.setIDs(s)
	}
	if err := p.setCaps(mask, s.Privileged); err != nil {
		return err
	}
	if !s.NewPrivileges {
		p.add("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return nil
}

// setIDs changes to the user and the groups of the plan.
func (p *program) setIDs(s *Spec) {
	const unmapped = "not mapped in this user namespace"
	var list uintptr
	if len(s.Groups) > 0 {
		groups := slices.Clone(s.Groups) // gid_t is 32 bits wide
		list = address(p, &groups[0])
	}
	c := p.add(fmt.Sprintf("set groups %v", s.Groups), unix.SYS_SETGROUPS, uintptr(len(s.Groups)), list)
	c.known, c.meaning = unix.EINVAL, unmapped
	none := len(s.Groups) == 0 || len(s.Groups) == 1 && s.Groups[0] == s.GID
	if none && (s.Chroot || setGroupsDenied()) {
		c.forgive[0] = unix.EPERM // the caller's groups stay; they are not mapped, and can only take rights away
	}
	gid, uid := uintptr(s.GID), uintptr(s.UID)
	c = p.add(fmt.Sprintf("become group %d", gid), unix.SYS_SETRESGID, gid, gid, gid)
	c.known, c.meaning = unix.EINVAL, unmapped
	c = p.add(fmt.Sprintf("become user %d", uid), unix.SYS_SETRESUID, uid, uid, uid)
	c.known, c.meaning = unix.EINVAL, unmapped
}

// setCaps gives the child the capabilities of mask that this thread has, and no other. When ambient is not set none is
// inheritable or ambient: exec gives them to root only.
func (p *program) setCaps(mask uint64, ambient bool) error {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(hdr, &have[0]); err != nil {
		return err
	}
	set := new([2]unix.CapUserData)
	for i := range set {
		set[i].Permitted = have[i].Permitted & uint32(mask>>(32*i))
		set[i].Effective = set[i].Permitted
		if ambient {
			set[i].Inheritable = set[i].Permitted
		}
	}
	hdr.Pid = 0
	p.add("set capabilities", unix.SYS_CAPSET, address(p, hdr), address(p, set)) // an ambient one needs an inheritable one
	for n := range capCount() {
		if set[n/32].Inheritable&(1<<(n%32)) != 0 {
			p.add("keep capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0)
		}
	}
	return nil
}

// exec finds the command of s, and executes it by way of the trampoline.
func (p *program) exec(s *Spec, listener int) error {
	file, err := trampoline()
	if err != nil {
		return err
	}
	argv := p.texts(append([]string{""}, s.Args...))
	p.find(s, &argv[0])
	if err := p.beforeExec(s, listener); err != nil {
		return err
	}
	p.execute("", file, argv, s.Env)
	return nil
}

// beforeExec appends what comes last.
func (p *program) beforeExec(s *Spec, listener int) error {
	p.resetSignals()
	p.dieWithParent()
	// The parent may be gone already. In a namespace of its own the child has no parent to ask for, but
	// nobody else reads the report.
	report := &unix.PollFd{Fd: reportFD}
	p.add("die with the parent", unix.SYS_PPOLL, address(p, report), 1, address(p, new(unix.Timespec)), 0).zero = true
	if s.NewPrivileges {
		return nil // it is confined
	}
	// Last of all, since the filter is for the command: it may forbid what was needed before.
	return p.confine(s, listener)
}

// execute executes a file that is open.
func (p *program) execute(what string, file int, argv []uintptr, env []string) *call {
	return p.add(what, unix.SYS_EXECVEAT, uintptr(file), p.text(""), address(p, &argv[0]), address(p, &p.texts(env)[0]), unix.AT_EMPTY_PATH)
}

// confine puts the child under the filter of s. With Spec.OneUID, it sends to the socket listener the descriptor where this
// process gets the calls that it answers.
func (p *program) confine(s *Spec, listener int) error {
	f, err := s.filter()
	if err != nil || len(f) == 0 {
		return err
	}
	prog := &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	install := p.add("filter system calls", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, seccomp.Flags(s.OneUID), address(p, prog))
	if !s.OneUID {
		return nil
	}
	rights := unix.UnixRights(-1)
	install.to = (*int32)(unsafe.Pointer(&rights[unix.CmsgLen(0)]))
	data := new(byte)
	msg := &unix.Msghdr{Iov: &unix.Iovec{Base: data, Len: 1}, Iovlen: 1, Control: &rights[0]}
	msg.SetControllen(len(rights))
	p.add("hand over the listener", unix.SYS_SENDMSG, uintptr(listener), address(p, msg), 0)
	return nil
}

// resetSignals undoes what exec would hand on: signals that this process ignores.
func (p *program) resetSignals() {
	for _, n := range ignored() {
		p.add("reset signals", unix.SYS_RT_SIGACTION, n, address(p, new(sigaction)), 0, setSize)
	}
}

// A sigaction is the kernel's, on amd64 and arm64. Zeros are the default.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// setSize is the size of a set of signals, in bytes.
const setSize = 8

// ignored returns the signals that this process was started to ignore, as nohup does.
var ignored = sync.OnceValue(func() (list []uintptr) {
	const last, ignore = 64, 1
	for n := uintptr(1); n <= last; n++ {
		var a sigaction
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&a)), setSize, 0, 0)
		if a.handler == ignore {
			list = append(list, n)
		}
	}
	return list
})

// atCWD is AT_FDCWD as an argument.
const atCWD = ^uintptr(-unix.AT_FDCWD - 1)
