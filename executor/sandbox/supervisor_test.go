package sandbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"golang.org/x/sys/unix"
)

// supervisorAttacks are about calls that a supervisor answers.
var supervisorAttacks = map[string]func() error{
	"magic links": func() error {
		victim := os.Getenv("VICTIM")
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		var list []error
		for _, name := range []string{"/proc/1/root", "/proc/self/root", "/proc/thread-self/root", "/proc/self/cwd", fmt.Sprintf("/proc/self/fd/%d", root), fmt.Sprintf("/dev/fd/%d", root)} {
			for _, way := range []string{"", "/..", "/../../../.."} {
				unix.Chown(name+way+victim, 5, 6)
				unix.Mknod(name+way+filepath.Dir(victim)+"/node", unix.S_IFBLK, 0x800)
			}
		}
		unix.Fchownat(root, "../../.."+victim, 5, 6, 0)
		unix.Fchownat(root, "..", 5, 6, 0)
		var st unix.Stat_t
		if err := unix.Stat(victim, &st); err != nil || st.Uid != 5 {
			list = append(list, fmt.Errorf("the file inside belongs to %d, %v", st.Uid, err))
		}
		return errors.Join(list...)
	},
	"read-only mounts": func() error {
		for _, name := range []string{"/shown", "/shown/victim"} {
			if err := unix.Chown(name, 5, 6); err == nil {
				return fmt.Errorf("%s has changed hands", name)
			}
		}
		unix.Mknod("/shown/node", unix.S_IFBLK|0o600, 0x800)
		fd, err := unix.Open("/shown/victim", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if err := unix.Fchown(fd, 5, 6); err == nil {
			return errors.New("the open file has changed hands")
		}
		return nil
	},
	// One thread changes the name in memory that another one's call reads: only what the supervisor has read counts.
	"names that change": func() error {
		victim := os.Getenv("VICTIM")
		os.WriteFile("/mine", nil, 0o600)
		name := make([]byte, 256)
		good, bad := append([]byte("/mine"), 0), append([]byte("/proc/self/root/../.."+victim), 0)
		return race(func() { copy(name, good); copy(name, bad) }, func() {
			unix.Syscall6(unix.SYS_FCHOWNAT, ^uintptr(99), uintptr(unsafe.Pointer(&name[0])), 5, 6, 0, 0)
			unix.Syscall(unix.SYS_MKNODAT, ^uintptr(99), uintptr(unsafe.Pointer(&name[0])), unix.S_IFCHR)
		})
	},
	// A folder is a link every other time.
	"folders that are links": func() error {
		victim := os.Getenv("VICTIM")
		os.MkdirAll("/d", 0o755)
		os.WriteFile("/d/victim", nil, 0o600)
		os.Symlink("../../../../../.."+filepath.Dir(victim), "/l")
		if err := unix.Setresuid(1000, 1000, 1000); err != nil { // so that it makes files in its name as well
			return err
		}
		n := 0
		return race(func() { unix.Renameat2(unix.AT_FDCWD, "/d", unix.AT_FDCWD, "/l", unix.RENAME_EXCHANGE) }, func() {
			n++
			unix.Chown("/d/victim", 1000, 1000)
			unix.Mkdir(fmt.Sprintf("/d/%d", n), 0o755)
			if fd, err := unix.Open(fmt.Sprintf("/d/f%d", n), unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
				unix.Close(fd)
			}
		})
	},
	"root of its own": func() error {
		victim := os.Getenv("VICTIM")
		os.MkdirAll("/jail/"+filepath.Dir(victim), 0o755)
		os.WriteFile("/jail/"+victim, nil, 0o600)
		out, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		if err := unix.Chroot("/jail"); err != nil {
			return err
		}
		unix.Fchdir(out)
		unix.Chown("../../../.."+victim, 7, 7)
		unix.Chown(victim, 5, 5)
		unix.Fchownat(out, "../../.."+victim, 8, 8, 0)
		var st unix.Stat_t
		if err := unix.Stat(victim, &st); err != nil || st.Uid != 5 {
			return fmt.Errorf("the file in the jail belongs to %d, %v", st.Uid, err)
		}
		return nil
	},
	// Calls with arguments that lead nowhere must not end or stop the supervisor.
	"nonsense": func() error {
		page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		if err := unix.Mprotect(page[4096:], unix.PROT_NONE); err != nil {
			return err
		}
		copy(page, bytes.Repeat([]byte("a/"), 2048)) // no end before the end of the page
		start := uintptr(unsafe.Pointer(&page[0]))
		addresses := []uintptr{0, 1, start, start + 4095, start + 4096, ^uintptr(0), 1 << 47, uintptr(unsafe.Pointer(unsafe.StringData("/none/none\x00")))}
		fds := []uintptr{0, 1, 99, ^uintptr(0), ^uintptr(99), 1 << 31, 1<<32 - 100}
		calls := strings.Fields("chown lchown fchownat fchown stat lstat newfstatat fstat statx mknod mknodat mkdir mkdirat symlink symlinkat open creat " +
			"getgroups setgroups getresuid getresgid rename link utimensat setxattr listxattr flistxattr")
		for _, name := range calls {
			number, ok := seccomp.Number(name)
			if !ok {
				continue // arm64 has no old calls
			}
			c := uintptr(number)
			for i, a := range addresses {
				unix.Syscall6(c, a, addresses[(i+3)%len(addresses)], fds[i%len(fds)], a, ^uintptr(0), 0)
				unix.Syscall6(c, fds[i%len(fds)], a, addresses[(i+5)%len(addresses)], a, 1<<32-1, 0)
			}
		}
		if os.Getuid() != 0 {
			return errors.New("it has become somebody else")
		}
		return nil
	},
	// What the supervisor has to remember has an end.
	"many users": func() error {
		groups := make([]int, 65536)
		for i := range groups {
			groups[i] = i
		}
		for n := range 200 {
			groups[0] = 100_000 + n
			if err := unix.Setgroups(groups); err != nil {
				if err == unix.EAGAIN {
					return nil
				}
				return err
			}
		}
		return errors.New("it remembers 13 million groups")
	},
	// A mark is for the supervisor to make, and for nobody to see.
	"marks by hand": func() error {
		os.WriteFile("/f", nil, 0o644)
		if err := unix.Chown("/f", 5, 6); err != nil {
			return err
		}
		const mark = "user.build.owner"
		fd, err := unix.Open("/f", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		var list []error
		for way, err := range map[string]error{
			"set": unix.Setxattr("/f", mark, []byte("0:0"), 0), "fset": unix.Fsetxattr(fd, mark, []byte("0:0"), 0), "lset": unix.Lsetxattr("/f", mark, []byte("0:0"), 0),
			"remove": unix.Removexattr("/f", mark), "fremove": unix.Fremovexattr(fd, mark), "lremove": unix.Lremovexattr("/f", mark),
		} {
			if err == nil {
				list = append(list, errors.New(way+": a mark was changed"))
			}
		}
		if err := unix.Setxattr("/f", "user.other", []byte("x"), 0); err != nil {
			list = append(list, err)
		}
		b := make([]byte, 1024)
		for way, f := range map[string]func([]byte) (int, error){
			"list":  func(b []byte) (int, error) { return unix.Listxattr("/f", b) },
			"flist": func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
			"llist": func(b []byte) (int, error) { return unix.Llistxattr("/f", b) },
		} {
			n, err := f(b)
			size, _ := f(nil)
			if err != nil || string(b[:n]) != "user.other\x00" || size != n {
				list = append(list, fmt.Errorf("%s: %q, %d, %v", way, b[:max(n, 0)], size, err))
			}
		}
		var st unix.Stat_t
		if err := unix.Stat("/f", &st); err != nil || st.Uid != 5 || st.Gid != 6 {
			list = append(list, fmt.Errorf("it belongs to %d:%d, %v", st.Uid, st.Gid, err))
		}
		return errors.Join(list...)
	},
}

// race calls act many times while change changes what it is about.
func race(change, act func()) error {
	var stop atomic.Bool
	var w sync.WaitGroup
	w.Go(func() {
		runtime.LockOSThread()
		for !stop.Load() {
			change()
			unix.Nanosleep(&unix.Timespec{Nsec: 1000}, nil)
		}
	})
	for range 500 {
		act()
	}
	stop.Store(true)
	w.Wait()
	return nil
}
