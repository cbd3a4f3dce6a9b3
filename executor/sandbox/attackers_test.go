package sandbox_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attacks are what happens inside.
var attacks = []attack{
	{"memory and credentials of the builder", attackMemory, everywhere},
	{"limits of the builder", attackLimits, noChroot},
	{"signals", attackSignals, scoped},
	{"abstract sockets", attackAbstract, scoped},
	{"processes of others in proc", attackProc, alone},
	{"writes to proc and sys", attackSettings, noChroot},
	{"devices", attackDevices, everywhere},
	{"calls for administrators", attackCalls, everywhere},
	{"namespaces", attackNamespaces, everywhere},
	{"mounts", attackMounts, everywhere},
	{"file handles", attackHandles, everywhere},
	{"inherited descriptors", attackDescriptors, everywhere},
	{"terminal", attackTerminal, everywhere},
	{"way out of a chroot", attackChroot, everywhere},
	{"immutable files", attackImmutable, everywhere},
	{"capabilities", attackCapabilities, everywhere},
	{"what is in dev", attackDev, noChroot},
}

func builderPID() int {
	pid, _ := strconv.Atoi(os.Getenv(builderVariable))
	return pid
}

// call makes a system call and returns an error if that was allowed.
func call(name string, number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	switch errno {
	case unix.EPERM, unix.ENOSYS, unix.EACCES, unix.EROFS, unix.ENODEV, unix.ESRCH, unix.ENOENT, unix.ENOTTY, unix.ENXIO:
		return nil
	}
	return fmt.Errorf("%s: got as far as %v", name, errno)
}

// attackMemory wants to read and change the process that made the sandbox.
func attackMemory() error {
	pid := uintptr(builderPID())
	self := uintptr(os.Getpid())
	secret := make([]byte, 8)
	local := unix.Iovec{Base: &secret[0], Len: 8}
	remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&secret[0])), Len: 8}
	pidfd, _, errno := unix.Syscall(unix.SYS_PIDFD_OPEN, pid, 0, 0)
	if errno != 0 {
		pidfd = ^uintptr(0)
	}
	runtime.LockOSThread()
	err := errors.Join(
		call("ptrace(SEIZE)", unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid),
		call("process_vm_readv", unix.SYS_PROCESS_VM_READV, pid, uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1),
		call("kcmp", unix.SYS_KCMP, pid, self, 0, 0, 0),
		call("move_pages", unix.SYS_MOVE_PAGES, pid, 0, 0, 0, 0, 0),
		call("get_robust_list", unix.SYS_GET_ROBUST_LIST, pid, uintptr(unsafe.Pointer(&secret[0])), uintptr(unsafe.Pointer(&secret[0]))),
	)
	if int(pidfd) >= 0 {
		for fd := range uintptr(64) {
			err = errors.Join(err, call("pidfd_getfd", unix.SYS_PIDFD_GETFD, pidfd, fd, 0))
		}
	}
	return err
}

// attackLimits wants to starve the builder.
func attackLimits() error {
	pid := uintptr(builderPID())
	return errors.Join(
		call("prlimit64", unix.SYS_PRLIMIT64, pid, unix.RLIMIT_CORE, 0, uintptr(unsafe.Pointer(&unix.Rlimit{}))),
		call("setpriority", unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, pid, 0),
		call("sched_setaffinity", unix.SYS_SCHED_SETAFFINITY, pid, 0, 0),
	)
}

// abstractSocket is where the builder listens.
func abstractSocket(builder string) string { return "@sandbox-attack-" + builder }

// attackAbstract connects to a socket that the builder listens on.
func attackAbstract() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: abstractSocket(os.Getenv(builderVariable))}); err == nil {
		return errors.New("connected to the socket of another")
	}
	return nil
}

// attackSignals wants to end others. Signal 0 only asks whether it might; of a signal to all, which is one that nobody
// minds, the builder must not hear.
func attackSignals() error {
	unix.Kill(-1, unix.SIGWINCH)
	unix.Kill(0, unix.SIGWINCH)
	var list []error
	for _, pid := range []int{builderPID(), -builderPID(), os.Getppid()} {
		if pid <= 1 {
			continue // the parent is of another namespace, or the init of this one
		}
		if err := unix.Kill(pid, 0); err == nil {
			list = append(list, fmt.Errorf("process %d can be killed", pid))
		}
	}
	return errors.Join(list...)
}

// attackProc looks for processes other than this one, and for what they hold.
func attackProc() error {
	var list []error
	tried := 0
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	self, _ := os.Readlink("/proc/self")
	for _, dir := range dirs {
		if filepath.Base(dir) == self {
			continue
		}
		tried++
		for _, name := range []string{"environ", "mem", "maps", "auxv", "syscall", "stack", "pagemap", "io", "personality"} {
			if b, err := readSome(dir + "/" + name); err == nil && len(b) > 0 {
				list = append(list, fmt.Errorf("%s/%s is for everybody to read", dir, name))
			}
		}
		for _, name := range []string{"root", "cwd", "exe", "fd/0", "ns/mnt", "ns/user", "map_files"} {
			if fd, err := unix.Open(dir+"/"+name, unix.O_PATH, 0); err == nil {
				if name != "map_files" {
					list = append(list, fmt.Errorf("%s/%s leads there", dir, name))
				}
				unix.Close(fd)
			}
		}
		if os.Getenv(maskedVariable) != "" {
			continue // it is the old /proc, and what the user of both owns can be opened
		}
		for _, name := range []string{"mem", "clear_refs", "oom_score_adj", "oom_adj", "coredump_filter", "uid_map", "gid_map", "setgroups", "timens_offsets", "attr/current", "comm", "autogroup"} {
			if f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0); err == nil {
				list = append(list, fmt.Errorf("%s/%s can be written", dir, name))
				f.Close()
			}
		}
	}
	if tried > 0 && os.Getenv(maskedVariable) == "" {
		list = append(list, fmt.Errorf("/proc shows %d others", tried))
	}
	return errors.Join(list...)
}

func readSome(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 64)
	n, err := f.Read(b)
	return b[:n], err
}

// attackSettings wants to change the host through /proc and /sys: all that can be opened for writing is too much.
func attackSettings() error {
	var list []error
	open := func(file string) {
		if fd, err := unix.Open(file, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
			list = append(list, fmt.Errorf("%s can be written", file))
			unix.Close(fd)
		}
	}
	for _, dir := range []string{"/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/sys"} {
		filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				open(file)
			}
			return nil
		})
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		// Root opens what nobody may write as well, and writes in vain.
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Mode()&0o222 != 0 {
			open("/proc/" + e.Name())
		}
	}
	for _, file := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/proc/latency_stats"} {
		if b, err := readSome(file); err == nil && len(b) > 0 {
			list = append(list, fmt.Errorf("%s can be read", file))
		}
	}
	return errors.Join(list...)
}

// attackDevices wants the host's disks and memory: a device file anywhere is as good as any.
func attackDevices() error {
	var list []error
	os.Mkdir("/nodes", 0o777)
	for _, dir := range []string{"/nodes", "/dev", "/dev/shm", "/tmp"} {
		for _, d := range []struct {
			kind         uint32
			major, minor uint32
		}{
			{unix.S_IFCHR, 1, 1}, {unix.S_IFCHR, 1, 2}, {unix.S_IFCHR, 1, 11}, {unix.S_IFCHR, 10, 200}, {unix.S_IFCHR, 10, 229}, {unix.S_IFCHR, 10, 237},
			{unix.S_IFBLK, 7, 0}, {unix.S_IFBLK, 8, 0}, {unix.S_IFBLK, 253, 0}, {unix.S_IFBLK, 254, 0},
		} {
			file := fmt.Sprintf("%s/%o-%d-%d", dir, d.kind, d.major, d.minor)
			if unix.Mknod(file, d.kind|0o666, int(unix.Mkdev(d.major, d.minor))) != nil {
				continue
			}
			if st, err := os.Stat(file); err != nil || st.Mode()&fs.ModeDevice == 0 {
				continue
			}
			// With one id it says that it is a device, and is an empty file.
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			if n, err := unix.Pread(fd, make([]byte, 1), 0); n != 0 || err != nil {
				list = append(list, fmt.Errorf("%s was opened, and reads %d, %v", file, n, err))
			}
			unix.Close(fd)
		}
	}
	return errors.Join(list...)
}

// attackCalls makes the calls that rule the host. None of them could do anything with these arguments.
func attackCalls() error {
	one := []byte{0}
	p := uintptr(unsafe.Pointer(&one[0]))
	attr := make([]byte, 128)
	a := uintptr(unsafe.Pointer(&attr[0]))
	return errors.Join(
		call("bpf", unix.SYS_BPF, 0, a, 128),
		call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, a, 0, ^uintptr(0), ^uintptr(0), 0),
		call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, a),
		call("userfaultfd", unix.SYS_USERFAULTFD, 1),
		call("keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2), 0),
		call("add_key", unix.SYS_ADD_KEY, p, p, p, 0, ^uintptr(2)),
		call("request_key", unix.SYS_REQUEST_KEY, p, p, 0, 0),
		call("init_module", unix.SYS_INIT_MODULE, 0, 0, p),
		call("finit_module", unix.SYS_FINIT_MODULE, 0, p, 0),
		call("delete_module", unix.SYS_DELETE_MODULE, p, 0),
		call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 1<<31),
		call("swapon", unix.SYS_SWAPON, p, 0),
		call("acct", unix.SYS_ACCT, 0),
		call("syslog", unix.SYS_SYSLOG, 3, a, 64),
		call("settimeofday", unix.SYS_SETTIMEOFDAY, 0, p),
		call("clock_settime", unix.SYS_CLOCK_SETTIME, 0, a),
		call("sethostname", unix.SYS_SETHOSTNAME, p, 1),
		call("quotactl", unix.SYS_QUOTACTL, 0, p, 0, a),
		call("fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0),
		call("lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, 0, a, 1),
		call("nfsservctl", unix.SYS_NFSSERVCTL, 0, 0, 0),
		call("vhangup", unix.SYS_VHANGUP),
		call("socket(AF_VSOCK)", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		call("socket(AF_ALG)", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	)
}

// attackNamespaces wants capabilities in a namespace of its own, or somebody else's.
func attackNamespaces() error {
	runtime.LockOSThread()
	list := []error{}
	for _, flag := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWTIME} {
		list = append(list, call(fmt.Sprintf("unshare(%#x)", flag), unix.SYS_UNSHARE, flag))
		list = append(list, call(fmt.Sprintf("unshare(%#x|1<<32)", flag), unix.SYS_UNSHARE, flag|1<<32))
	}
	files, _ := filepath.Glob("/proc/self/ns/*")
	for _, file := range files {
		fd, err := unix.Open(file, unix.O_RDONLY, 0)
		if err != nil {
			continue
		}
		list = append(list, call("setns "+file, unix.SYS_SETNS, uintptr(fd), 0))
		// The owner and the parent of a namespace are a way up.
		for _, request := range []uintptr{unix.NS_GET_USERNS, unix.NS_GET_PARENT} {
			up, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, 0)
			if errno == 0 {
				list = append(list, call("setns of what owns "+file, unix.SYS_SETNS, up, 0))
			}
		}
	}
	return errors.Join(list...)
}

// attackMounts wants other files than those it was given.
func attackMounts() error {
	text := func(s string) uintptr { b, _ := unix.BytePtrFromString(s); return uintptr(unsafe.Pointer(b)) }
	os.Mkdir("/mnt", 0o755)
	at := ^uintptr(99) // AT_FDCWD
	return errors.Join(
		call("mount tmpfs", unix.SYS_MOUNT, text("none"), text("/mnt"), text("tmpfs"), 0, 0),
		call("mount proc", unix.SYS_MOUNT, text("none"), text("/mnt"), text("proc"), 0, 0),
		call("bind", unix.SYS_MOUNT, text("/proc"), text("/mnt"), 0, unix.MS_BIND, 0),
		call("remount /", unix.SYS_MOUNT, 0, text("/"), 0, unix.MS_REMOUNT|unix.MS_BIND, 0),
		call("remount /proc/sys", unix.SYS_MOUNT, 0, text("/proc/sys"), 0, unix.MS_REMOUNT|unix.MS_BIND, 0),
		call("umount /proc/keys", unix.SYS_UMOUNT2, text("/proc/keys"), unix.MNT_DETACH),
		call("umount /proc/sys", unix.SYS_UMOUNT2, text("/proc/sys"), unix.MNT_DETACH),
		call("pivot_root", unix.SYS_PIVOT_ROOT, text("/"), text("/mnt")),
		call("fsopen", unix.SYS_FSOPEN, text("tmpfs"), 0),
		call("fspick", unix.SYS_FSPICK, at, text("/"), 0),
		call("open_tree", unix.SYS_OPEN_TREE, at, text("/"), unix.OPEN_TREE_CLONE),
		call("move_mount", unix.SYS_MOVE_MOUNT, at, text("/proc"), at, text("/mnt"), 0),
		call("mount_setattr", unix.SYS_MOUNT_SETATTR, at, text("/"), 0, text("0123456789012345678901234567890123456789"), 32),
	)
}

// attackHandles opens files by number: those of the host's file system as well (the "shocker" of 2014).
func attackHandles() error {
	handle, mount, err := unix.NameToHandleAt(unix.AT_FDCWD, "/attack", 0)
	if err != nil {
		handle, mount = unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), 0 // the root folder of ext4
	}
	_ = mount
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if _, err := unix.OpenByHandleAt(root, handle, unix.O_RDONLY); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("open_by_handle_at: got as far as %v", err)
	}
	return nil
}

// attackDescriptors looks for what was left open.
func attackDescriptors() error {
	var list []error
	for fd := 3; fd < 4096; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		name, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if name != "anon_inode:[eventpoll]" && name != "anon_inode:[eventfd]" && !isPollOfGo(fd) {
			list = append(list, fmt.Errorf("descriptor %d is %q", fd, name))
		}
	}
	return errors.Join(list...)
}

// isPollOfGo reports whether fd is what the Go runtime made for itself. Without /proc only that tells.
func isPollOfGo(fd int) bool {
	var fs unix.Statfs_t
	const anonInode = 0x09041934
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == anonInode
}

// attackTerminal wants to type for who watches the build (CVE-2017-5226).
func attackTerminal() error {
	key := []byte{'x'}
	list := []error{}
	for _, request := range []uintptr{unix.TIOCSTI, unix.TIOCSTI | 1<<32, unix.TIOCLINUX} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, request, uintptr(unsafe.Pointer(&key[0])))
		if errno != unix.EPERM {
			list = append(list, fmt.Errorf("ioctl %#x: got as far as %v", request, errno))
		}
	}
	fd, err := unix.Open("/dev/tty", unix.O_RDWR, 0)
	if err == nil && os.Getenv(terminalVariable) == "" {
		list = append(list, fmt.Errorf("there is a terminal, %d", fd))
	}
	if size, sizeErr := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && (sizeErr != nil || size.Row != 0) {
		list = append(list, fmt.Errorf("it is not the one of this sandbox: %v, %v", size, sizeErr))
	}
	return errors.Join(list...)
}

// attackChroot climbs out of its root by way of another below its working directory.
func attackChroot() error {
	before, err := inode("/")
	if err != nil {
		return err
	}
	os.Mkdir("/jail", 0o755)
	dir, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if unix.Chroot("/jail") != nil {
		return nil
	}
	unix.Fchdir(dir)
	for range 100 {
		unix.Chdir("..")
	}
	if after, err := inode("."); err != nil || after != before {
		return fmt.Errorf("it is outside: %v, %v, %v", before, after, err)
	}
	return nil
}

func inode(name string) ([2]uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(name, &st)
	return [2]uint64{uint64(st.Dev), st.Ino}, err
}

// attackImmutable leaves a file that the builder could not remove.
func attackImmutable() error {
	f, err := os.Create("/stays")
	if err != nil {
		return err
	}
	defer f.Close()
	const immutable, appendOnly = 0x10, 0x20
	for _, flag := range []int{immutable, appendOnly} {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag); err == nil {
			return fmt.Errorf("the flag %#x was set", flag)
		}
	}
	return nil
}

// attackCapabilities wants more than it was given.
func attackCapabilities() error {
	var list []error
	if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); n != 1 || err != nil {
		list = append(list, fmt.Errorf("no_new_privs is %d, %v", n, err))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		return err
	}
	for c, name := range map[uintptr]string{
		unix.CAP_SYS_ADMIN: "SYS_ADMIN", unix.CAP_SYS_PTRACE: "SYS_PTRACE", unix.CAP_NET_ADMIN: "NET_ADMIN", unix.CAP_SYS_MODULE: "SYS_MODULE",
		unix.CAP_DAC_READ_SEARCH: "DAC_READ_SEARCH", unix.CAP_SYS_RESOURCE: "SYS_RESOURCE", unix.CAP_BPF: "BPF", unix.CAP_MAC_ADMIN: "MAC_ADMIN",
	} {
		if (has[c/32].Permitted|has[c/32].Inheritable)&(1<<(c%32)) != 0 {
			list = append(list, fmt.Errorf("it has CAP_%s", name))
		}
		if unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0) == nil {
			list = append(list, fmt.Errorf("CAP_%s was raised", name))
		}
	}
	return errors.Join(list...)
}

// attackDev looks for devices that hold something.
func attackDev() error {
	harmless := " null zero full random urandom tty ptmx console "
	var list []error
	filepath.WalkDir("/dev", func(file string, d fs.DirEntry, err error) error {
		own := file == "/dev/pts/0" && os.Getenv(terminalVariable) != ""
		if err == nil && d.Type()&fs.ModeDevice != 0 && !own && !strings.Contains(harmless, " "+d.Name()+" ") {
			list = append(list, fmt.Errorf("there is %s", file))
		}
		return nil
	})
	return errors.Join(list...)
}
