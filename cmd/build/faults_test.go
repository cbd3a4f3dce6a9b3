package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
)

// A fileCall is what is known of a system call on a file: which argument names the file, how, and what can go wrong with it.
type fileCall struct {
	dir, name int // arguments; a name of -1 is for calls on the descriptor dir, a dir of -1 for names that start at the working folder
	effect    effect
}

// An effect is what a call does to a disk.
type effect int

const (
	reads effect = iota
	frees
	needsRoom
	writes // like needsRoom, from a buffer
)

// fileCalls are the calls that can be made to fail. An architecture need not have all of them.
var fileCalls = map[string]fileCall{
	"read": {0, -1, reads}, "pread64": {0, -1, reads}, "getdents64": {0, -1, reads}, "readlinkat": {0, 1, reads}, "newfstatat": {0, 1, reads},
	"write": {0, -1, writes}, "pwrite64": {0, -1, writes}, "writev": {0, -1, needsRoom}, "copy_file_range": {2, -1, needsRoom}, "sendfile": {0, -1, needsRoom},
	"ftruncate": {0, -1, needsRoom}, "fallocate": {0, -1, needsRoom}, "fsync": {0, -1, needsRoom}, "fsetxattr": {0, -1, needsRoom},
	"openat": {0, 1, reads}, "openat2": {0, 1, reads}, // needsRoom where they create something
	"mkdirat": {0, 1, needsRoom}, "mknodat": {0, 1, needsRoom}, "symlinkat": {1, 2, needsRoom}, "linkat": {2, 3, needsRoom},
	"renameat": {2, 3, needsRoom}, "renameat2": {2, 3, needsRoom}, "rename": {-1, 1, needsRoom}, "mkdir": {-1, 0, needsRoom},
	"lsetxattr": {-1, 0, needsRoom}, "setxattr": {-1, 0, needsRoom}, "unlinkat": {0, 1, frees}, "utimensat": {0, 1, needsRoom},
	"fchmodat": {0, 1, needsRoom}, "fchownat": {0, 1, needsRoom},
}

// A fault is what goes wrong.
type fault struct {
	name  string
	errno unix.Errno // 0 for a write that writes half
	from  effect     // the least effect that it can happen to
	lasts bool       // it happens to all calls from then on
}

var faults = []fault{
	{"no space", unix.ENOSPC, needsRoom, false},
	{"a full disk", unix.ENOSPC, needsRoom, true},
	{"a used up quota", unix.EDQUOT, needsRoom, true},
	{"a bad disk", unix.EIO, reads, false},
	{"a write that is not done", unix.EIO, needsRoom, false},
	{"a short write", 0, writes, false},
}

// installFaults is the name of the helper that starts a command whose calls on files are seen by an injector. Descriptor 3
// is a socket to it. The first arguments are the uid and gid of the command: only root installs a filter under which
// newuidmap can still become root.
const installFaults = "with-faults"

func withFaults() {
	runtime.LockOSThread() // the filter is of this thread, which becomes the command
	var names []seccomp.Call
	for name := range fileCalls {
		if _, ok := seccomp.Number(name); ok {
			names = append(names, seccomp.Call{Name: name})
		}
	}
	filter, err := seccomp.Compile(seccomp.Policy{Profile: seccomp.Unconfined, Notify: names})
	if err == nil {
		err = listenAndExec(filter)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func listenAndExec(filter seccomp.Filter) error {
	args := os.Args[3:]
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	env, prog := os.Environ(), unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, seccomp.Flags(true), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return err
	}
	unix.CloseOnExec(3)
	if err := becomeUser(os.Args[1], os.Args[2]); err != nil {
		return err
	}
	return syscall.Exec(path, args, env)
}

// becomeUser makes this process one of another user, unless that is root.
func becomeUser(uidText, gidText string) error {
	uid, err := strconv.Atoi(uidText)
	if err != nil || uid == 0 {
		return err
	}
	gid, err := strconv.Atoi(gidText)
	if err != nil {
		return err
	}
	return cmp.Or(syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid))
}

// An injector sees the calls of a command and all that it starts on files below a folder, and makes one fail, or all from one on.
type injector struct {
	fault
	dir string
	at  int // the call that fails, counted from 0 among those that can; -1 for none

	numbers map[int32]string
	file    *os.File // where it listens
	seen    int      // calls that the fault could have happened to
	hit     string   // the first call that it has happened to
	err     error
	done    sync.WaitGroup
}

// start starts cmd under the injector. Its calls wait until they are judged.
func (in *injector) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	helper, err := exec.LookPath(installFaults)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := os.NewFile(uintptr(pair[0]), "here"), os.NewFile(uintptr(pair[1]), "there")
	var u syscall.Credential
	if a := cmd.SysProcAttr; a != nil && a.Credential != nil {
		u, a.Credential = *a.Credential, nil
	}
	cmd.Args = append([]string{installFaults, fmt.Sprint(u.Uid), fmt.Sprint(u.Gid)}, cmd.Args...)
	cmd.Path, cmd.ExtraFiles = helper, []*os.File{there}
	err = cmd.Start()
	there.Close()
	if err == nil {
		in.file, err = receiveFile(here)
	}
	here.Close()
	if err != nil {
		t.Fatalf("%s: %v", installFaults, err)
	}
	in.numbers = map[int32]string{}
	for name := range fileCalls {
		if n, ok := seccomp.Number(name); ok {
			in.numbers[int32(n)] = name
		}
	}
	in.done.Go(func() { in.err = in.serve() })
}

// wait waits until nothing is left of what was started.
func (in *injector) wait(t *testing.T) {
	t.Helper()
	if in.done.Wait(); in.err != nil {
		t.Fatal(in.err)
	}
}

// receiveFile receives a descriptor from a socket, which is closed without one by a helper that fails.
func receiveFile(socket *os.File) (*os.File, error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d messages, %w", len(messages), cmp.Or(err, errors.New("not one")))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "listener"), nil
}

// A notification is a struct seccomp_notif.
type notification struct {
	id, pidAndFlags uint64
	nr              int32
	arch            uint32
	ip              uint64
	args            [6]uint64
}

// pid is the thread that makes the call.
func (n *notification) pid() int { return int(uint32(n.pidAndFlags)) }

// proc is a file of the thread in /proc.
func (n *notification) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(n.pid()), name)
}

// A response is a struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// serve answers calls until the last process has ended.
func (in *injector) serve() error {
	defer in.file.Close()
	fd := int(in.file.Fd())
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[0].Revents&unix.POLLHUP != 0 {
				return nil
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR { // killed meanwhile
				continue
			}
			return errno
		}
		r := in.judge(&n)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// judge decides what becomes of a call.
func (in *injector) judge(n *notification) response {
	let := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	name := in.numbers[n.nr]
	c := fileCalls[name]
	if c.effectOf(name, n) < in.from {
		return let
	}
	path := c.path(n)
	if path != in.dir && !strings.HasPrefix(path, in.dir+"/") {
		return let
	}
	i := in.seen
	in.seen++
	if in.at < 0 || i < in.at || i > in.at && !in.lasts {
		return let
	}
	if in.hit == "" {
		in.hit = name + " " + strings.TrimPrefix(path, in.dir+"/")
	}
	if in.errno != 0 {
		return response{id: n.id, err: -int32(in.errno)}
	}
	if k, ok := writeHalf(name, n); ok {
		return response{id: n.id, val: int64(k)}
	}
	return let
}

// effectOf is what a call does; that of opening a file depends on the flags.
func (c fileCall) effectOf(name string, n *notification) effect {
	if name == "openat" && n.args[2]&unix.O_CREAT != 0 {
		return needsRoom
	}
	if name == "openat2" {
		if b := memory(n, n.args[2], 8); len(b) == 8 && b[0]&unix.O_CREAT != 0 {
			return needsRoom
		}
	}
	return c.effect
}

// path is what a call is about, "" where that cannot be found out.
func (c fileCall) path(n *notification) string {
	if c.name < 0 {
		p, _ := os.Readlink(n.proc("fd/" + strconv.Itoa(int(int32(n.args[c.dir])))))
		return p
	}
	b := memory(n, n.args[c.name], 4096)
	name, _, _ := bytes.Cut(b, []byte{0})
	if filepath.IsAbs(string(name)) {
		return string(name)
	}
	dir := "cwd"
	if c.dir >= 0 && int32(n.args[c.dir]) != unix.AT_FDCWD {
		dir = "fd/" + strconv.Itoa(int(int32(n.args[c.dir])))
	}
	p, err := os.Readlink(n.proc(dir))
	if err != nil {
		return ""
	}
	return filepath.Join(p, string(name))
}

// memory returns up to size bytes of the memory of the process that makes a call.
func memory(n *notification, at uint64, size int) []byte {
	f, err := os.Open(n.proc("mem"))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, size)
	k, _ := f.ReadAt(b, int64(at)) // less at the end of a mapping
	return b[:k]
}

// writeHalf does the first half of a write in the place of the process.
func writeHalf(name string, n *notification) (int, bool) {
	b := memory(n, n.args[1], int(n.args[2]/2))
	status, err := os.ReadFile(n.proc("status"))
	if err != nil || len(b) == 0 {
		return 0, false
	}
	_, after, _ := strings.Cut(string(status), "\nTgid:")
	pid, _ := strconv.Atoi(strings.Fields(after)[0])
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, int(n.args[0]), 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	k := 0
	if name == "pwrite64" {
		k, err = unix.Pwrite(fd, b, int64(n.args[3]))
	} else {
		k, err = unix.Write(fd, b)
	}
	return k, err == nil && k > 0
}
