// Package oneuid lets programs that change owners and users run where the kernel knows
// one user only.
//
// A seccomp filter hands a few system calls of the sandbox to this package, in the process of the
// builder. Owners and devices become marks on files (package owners), and what stat says
// follows them. The user of a process is a number that the kernel itself hands on to its
// children, see creds.go. All that is not about another user is left to the kernel.
//
// It is no boundary: a process of a sandbox can already do what the one real user can.
// Files are found as the process would find them, from its own root, and never through
// a magic link, so no path leads to a file outside.
package oneuid

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"github.com/seed0570efb0/build/internal/owners"
	"golang.org/x/sys/unix"
)

// A Config says what a sandbox is like at its start.
type Config struct {
	Root     string // leads to its root
	UID, GID uint32
	Groups   []uint32
	// Upper is the upper directory of its root.
	Upper string
	// Links are the owners of those symbolic links and pipes that were there before, by their paths
	// without leading slash. Those of root need not be named.
	Links map[string]owners.Mark
	// Began, which Tick gave, is a time before the first process. It is needed with Links only.
	Began time.Time
}

// A Supervisor answers the system calls of one sandbox.
type Supervisor struct {
	cfg      Config
	listener *os.File
	root     int // of the sandbox, O_PATH
	rootDev  uint64
	rootName string // what the kernel calls it
	err      error
	done     chan struct{}

	// What follows belongs to the one goroutine that answers.
	chrooted bool // some process may have another root than the first one
	users    users
	table    map[fileID]owners.Mark // of files that can carry no mark
}

// Serve begins to answer the calls that listener brings, and owns it from now on. The first process
// of the sandbox must have executed its command or be about to.
func Serve(listener *os.File, cfg Config) (*Supervisor, error) {
	s := &Supervisor{cfg: cfg, listener: listener, done: make(chan struct{}), table: map[fileID]owners.Mark{}}
	s.users.first = newCreds(cfg.UID, cfg.GID, cfg.Groups)
	var err error
	s.root, err = unix.Open(cfg.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("root of the sandbox: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.root, &st); err != nil {
		s.close()
		return nil, fmt.Errorf("root of the sandbox: %w", err)
	}
	s.rootDev = st.Dev
	if s.rootName, err = os.Readlink(selfFD(s.root)); err != nil {
		s.close()
		return nil, fmt.Errorf("root of the sandbox: %w", err)
	}
	go func() {
		defer close(s.done)
		if s.err = s.serve(); s.err != nil {
			listener.Close() // calls fail from now on, where they would wait for ever
		}
	}()
	return s, nil
}

// Wait waits until no process is left that could make a call. A nil error promises that all were answered.
func (s *Supervisor) Wait() error {
	<-s.done
	s.close()
	if s.err != nil {
		return fmt.Errorf("emulate users: %w", s.err)
	}
	return nil
}

func (s *Supervisor) close() {
	s.listener.Close()
	unix.Close(s.root)
}

// serve answers calls until the last process has ended.
func (s *Supervisor) serve() error {
	// The thread gets a root of its own, and ends with this goroutine.
	runtime.LockOSThread()
	outer := ownRoot()
	if outer != noRoot {
		defer unix.Close(int(outer))
	}
	// The process waits for us and we for it: let the kernel switch at once (Linux 6.6).
	ioctl(int(s.listener.Fd()), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	d := newDesk(int(s.listener.Fd()))
	defer d.close()
	handlers := handlers()
	r := &request{Supervisor: s, notification: &d.n}
	for {
		if err := s.receive(d, outer); err != nil {
			if errors.Is(err, errEnd) {
				return nil
			}
			return err
		}
		answer := proceed
		if h := handlers[uint32(d.n.nr)]; h != nil {
			answer = h(r)
		}
		if err := send(int(d.listener), d.n.id, answer); err != nil {
			return err
		}
	}
}

// receive waits at d for a call to think about. Meanwhile this thread's root is that of the sandbox, where names mean what
// they mean to its processes.
func (s *Supervisor) receive(d *desk, outer root) error {
	d.know(&s.users)
	d.thorough = len(s.table) > 0 || len(s.cfg.Links) > 0
	d.inside = outer != noRoot && !s.chrooted && root(s.root).become() == nil
	err := d.wait()
	if d.inside {
		err = errors.Join(err, outer.become())
	}
	return err
}

type handler func(*request) reply

// always is a served call, whatever its arguments.
func always(name string) seccomp.Call { return seccomp.Call{Name: name} }

// making are the flags of opens that may make a file: with a name, or without one.
const making = unix.O_CREAT | unnamed

const unnamed = unix.O_TMPFILE &^ unix.O_DIRECTORY

// creating is a call that opens a file, where the flags in arg ask to make it.
func creating(name string, arg int) seccomp.Call {
	return seccomp.Call{Name: name, Arg: arg, Mask: making}
}

const all = 1<<32 - 1

var served = []struct {
	seccomp.Call
	handler
}{
	{always("chown"), func(r *request) reply { return r.chownPath(unix.AT_FDCWD, r.args[0], r.args[1], r.args[2], 0) }},
	{always("lchown"), func(r *request) reply {
		return r.chownPath(unix.AT_FDCWD, r.args[0], r.args[1], r.args[2], unix.AT_SYMLINK_NOFOLLOW)
	}},
	{always("fchownat"), func(r *request) reply {
		return r.chownPath(r.int(0), r.args[1], r.args[2], r.args[3], r.int(4))
	}},
	{always("fchown"), (*request).fchown},

	{always("stat"), func(r *request) reply { return r.statPath(unix.AT_FDCWD, r.args[0], r.args[1], 0) }},
	{always("lstat"), func(r *request) reply {
		return r.statPath(unix.AT_FDCWD, r.args[0], r.args[1], unix.AT_SYMLINK_NOFOLLOW)
	}},
	{always("newfstatat"), func(r *request) reply { return r.statPath(r.int(0), r.args[1], r.args[2], r.int(3)) }},
	{always("fstat"), (*request).fstat},
	{always("statx"), (*request).statx},

	{always("mknod"), func(r *request) reply { return r.mknod(unix.AT_FDCWD, r.args[0], r.args[1], r.args[2]) }},
	{always("mknodat"), func(r *request) reply { return r.mknod(r.int(0), r.args[1], r.args[2], r.args[3]) }},
	{always("mkdir"), func(r *request) reply { return r.mkdir(unix.AT_FDCWD, r.args[0], r.args[1]) }},
	{always("mkdirat"), func(r *request) reply { return r.mkdir(r.int(0), r.args[1], r.args[2]) }},
	{always("symlink"), func(r *request) reply { return r.symlink(r.args[0], unix.AT_FDCWD, r.args[1]) }},
	{always("symlinkat"), func(r *request) reply { return r.symlink(r.args[0], r.int(1), r.args[2]) }},
	{creating("open", 1), func(r *request) reply { return r.open(unix.AT_FDCWD, r.args[0], r.int(1), r.args[2]) }},
	{creating("openat", 2), func(r *request) reply { return r.open(r.int(0), r.args[1], r.int(2), r.args[3]) }},
	{always("creat"), func(r *request) reply {
		return r.open(unix.AT_FDCWD, r.args[0], unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, r.args[1])
	}},
	{always("openat2"), (*request).openat2},

	{always("setxattr"), (*request).changeXattr},
	{always("lsetxattr"), (*request).changeXattr},
	{always("fsetxattr"), (*request).changeXattr},
	{always("removexattr"), (*request).changeXattr},
	{always("lremovexattr"), (*request).changeXattr},
	{always("fremovexattr"), (*request).changeXattr},
	{always("listxattr"), func(r *request) reply { return r.listPath(0) }},
	{always("llistxattr"), func(r *request) reply { return r.listPath(unix.AT_SYMLINK_NOFOLLOW) }},
	{always("flistxattr"), (*request).listFD},

	{always("getuid"), func(r *request) reply { return value(r.creds().uid.real) }},
	{always("geteuid"), func(r *request) reply { return value(r.creds().uid.effective) }},
	{always("getgid"), func(r *request) reply { return value(r.creds().gid.real) }},
	{always("getegid"), func(r *request) reply { return value(r.creds().gid.effective) }},
	{always("getresuid"), func(r *request) reply { return r.getres(r.creds().uid) }},
	{always("getresgid"), func(r *request) reply { return r.getres(r.creds().gid) }},
	{always("getgroups"), (*request).getgroups},
	{always("setgroups"), (*request).setgroups},
	{always("setuid"), setter(uids, func(x *ids, r *request, may bool) bool { return x.set(r.id(0), may) })},
	{always("setgid"), setter(gids, func(x *ids, r *request, may bool) bool { return x.set(r.id(0), may) })},
	{always("setreuid"), setter(uids, func(x *ids, r *request, may bool) bool { return x.setre(r.id(0), r.id(1), may) })},
	{always("setregid"), setter(gids, func(x *ids, r *request, may bool) bool { return x.setre(r.id(0), r.id(1), may) })},
	{always("setresuid"), setter(uids, func(x *ids, r *request, may bool) bool { return x.setres(r.id(0), r.id(1), r.id(2), may) })},
	{always("setresgid"), setter(gids, func(x *ids, r *request, may bool) bool { return x.setres(r.id(0), r.id(1), r.id(2), may) })},
	{always("setfsuid"), func(r *request) reply { return r.setfs(uids) }},
	{always("setfsgid"), func(r *request) reply { return r.setfs(gids) }},
	{seccomp.Call{Name: "prctl", Arg: 0, Mask: all, Values: []uint32{unix.PR_SET_KEEPCAPS}}, (*request).keepCaps},

	// The limit is taken, see creds.go.
	{seccomp.Call{Name: "setrlimit", Arg: 0, Mask: all, Values: []uint32{credsLimit}}, func(*request) reply { return value(0) }},
	{seccomp.Call{Name: "prlimit64", Arg: 1, Mask: all, Values: []uint32{credsLimit}}, func(r *request) reply {
		if r.args[2] != 0 {
			return value(0)
		}
		return proceed
	}},

	{always("chroot"), (*request).otherRoot},
	{always("pivot_root"), (*request).otherRoot},
	{always("setns"), (*request).otherRoot},
}

// servedForLinks are the calls that may copy up a link whose owner is only known by its path, or give it
// another path.
var servedForLinks = []struct {
	seccomp.Call
	handler
}{
	{always("rename"), func(r *request) reply { return r.keepLink(unix.AT_FDCWD, r.args[0]) }},
	{always("renameat"), func(r *request) reply { return r.keepLink(r.int(0), r.args[1]) }},
	{always("renameat2"), func(r *request) reply { return r.keepLink(r.int(0), r.args[1]) }},
	{always("link"), func(r *request) reply { return r.keepLink(unix.AT_FDCWD, r.args[0]) }},
	{always("linkat"), func(r *request) reply { return r.keepLink(r.int(0), r.args[1]) }},
	{always("utimensat"), func(r *request) reply { return r.keepLink(r.int(0), r.args[1]) }},
}

// Calls returns the system calls that a supervisor must get; links says whether its Config has Links.
func Calls(links bool) []seccomp.Call {
	var list []seccomp.Call
	for _, s := range served {
		list = append(list, s.Call)
	}
	if links {
		for _, s := range servedForLinks {
			list = append(list, s.Call)
		}
	}
	return list
}

// Denied returns the system calls that would go past the supervisor: work that the kernel does for a process
// without a call for each piece, and new forms of calls, for which programs have the old ones to fall back on.
func Denied() []string {
	return []string{
		"io_uring_setup", "io_uring_enter", "io_uring_register",
		"setxattrat", "removexattrat", "listxattrat",
	}
}

// handlers returns the handlers by the numbers of their calls.
var handlers = sync.OnceValue(func() map[uint32]handler {
	m := map[uint32]handler{}
	for _, s := range slices.Concat(served, servedForLinks) {
		if n, ok := seccomp.Number(s.Name); ok {
			m[n] = s.handler
		}
	}
	return m
})

func (r *request) otherRoot() reply {
	r.chrooted = true
	return proceed
}
