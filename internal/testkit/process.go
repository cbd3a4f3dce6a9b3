package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience returns a context for waiting. It ends with the test, and a little before go test -timeout would end
// them all, so that what is waited for in vain can be named.
func Patience(t testing.TB) context.Context {
	t.Helper()
	d, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return t.Context()
	}
	deadline, ok := d.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-max(time.Until(deadline)/10, 3*time.Second)))
	t.Cleanup(cancel)
	return ctx
}

// Processes returns the folders in /proc of the processes that belongs says true of. One that has ended, though
// nobody has asked for its status, has no environment, no command line and no mounts any more.
func Processes(belongs func(proc string) bool) (list []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		if belongs(proc) {
			list = append(list, proc)
		}
	}
	return list
}

// ProcHolds reports whether a file of /proc holds text.
func ProcHolds(file, text string) bool {
	b, err := os.ReadFile(file)
	return err == nil && bytes.Contains(b, []byte(text))
}

// ProcOpens reports whether a process has a file open that is below dir: one that was killed has lost its memory, and with it its
// environment, before it closes its files.
func ProcOpens(proc, dir string) bool {
	fds, _ := filepath.Glob(proc + "/fd/*")
	return slices.ContainsFunc(fds, func(fd string) bool {
		name, err := os.Readlink(fd)
		return err == nil && strings.HasPrefix(name, dir+"/")
	})
}

// AwaitNone waits until belongs is true of no process. Who does not end is an error, and killed.
func AwaitNone(t testing.TB, belongs func(proc string) bool) {
	t.Helper()
	ctx := Patience(t)
	for {
		list := Processes(belongs)
		if len(list) == 0 {
			return
		}
		pid, err := strconv.Atoi(filepath.Base(list[0]))
		if err != nil {
			t.Fatal(err)
		}
		fd, err := openProcess(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if belongs(list[0]) { // still, so it is the one that fd stands for
			err = awaitEnd(ctx, fd)
		}
		fd.Close()
		if err != nil {
			line, _ := os.ReadFile(filepath.Join(list[0], "cmdline"))
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatalf("process %d is left: %q", pid, line)
		}
	}
}

// AwaitEnd waits for the end of a process, which need not be a child.
func AwaitEnd(ctx context.Context, pid int) error {
	fd, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	return awaitEnd(ctx, fd)
}

// openProcess returns a pidfd.
func openProcess(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// awaitEnd waits for the end of the process of a pidfd, which becomes readable then.
func awaitEnd(ctx context.Context, process *os.File) error {
	stop := context.AfterFunc(ctx, func() { process.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := process.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n == 1
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
