package sandbox

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A handover is what a child gets beside its Spec.
type handover struct {
	streams  [3]*os.File
	terminal *terminal  // of which the streams are one end, with Spec.Terminal
	report   *os.File   // takes the number of the error when the last exec fails
	groups   []*os.File // to enter the control groups
	listener *os.File   // takes the listener of the filter, with Spec.OneUID
}

// spawn starts the process of s from this thread, which is st, or nil for a chroot, and is of no use for anything else
// afterwards. A nil error promises that everything is set up and the trampoline executed.
func spawn(s *Spec, h *handover, st *stage) (*os.Process, error) {
	var flags uintptr
	if st != nil {
		if err := st.set(s); err != nil {
			return nil, err
		}
		flags = unix.CLONE_NEWPID
		if s.Terminal != nil {
			t, err := st.root.openTerminal(s)
			if err != nil {
				return nil, err
			}
			h.attach(t)
		}
	}
	fds, err := h.numbers()
	defer func() { fds.close() }()
	if err != nil {
		return nil, err
	}
	s.ownPipes(fds.streams)
	if s.Chroot {
		rules, err := scopeRules()
		if err != nil {
			return nil, err
		}
		if rules != nil {
			defer rules.Close()
			if fds.rules, err = fds.number(rules); err != nil {
				return nil, err
			}
		}
	}
	p, err := s.program(st, fds)
	if err != nil {
		return nil, err
	}
	if s.Chroot {
		if err := s.changeRoot(); err != nil {
			return nil, err
		}
	}
	pid, failed, errno := vfork(flags, p)
	if st != nil {
		err = leave()
	}
	switch {
	case errno != 0:
		return nil, fmt.Errorf("fork: %w", errno)
	case failed != nil:
		unix.Wait4(pid, nil, 0, nil)
		return nil, p.err(*failed, s)
	}
	process, findErr := os.FindProcess(pid) // it is ours to wait for, so the number is its own
	if err == nil {
		err = findErr
	}
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	return process, nil
}

// attach makes t the terminal of the child.
func (h *handover) attach(t *terminal) {
	h.terminal, h.streams = t, [3]*os.File{t.slave, t.slave, t.slave}
}

// numbers returns the descriptors of h.
func (h *handover) numbers() (in inherited, err error) {
	in.rules = -1
	number := func(f *os.File) (fd int) {
		if err == nil {
			fd, err = in.number(f)
		}
		return fd
	}
	for i, f := range h.streams {
		in.streams[i] = number(f)
	}
	for _, f := range h.groups {
		in.groups = append(in.groups, number(f))
	}
	in.report, in.listener = number(h.report), number(h.listener)
	return in, err
}

// readReport waits until the child of s has executed its command, or returns why it has not.
func readReport(report io.Reader, s *Spec) error {
	b, err := io.ReadAll(report)
	if err != nil {
		return err
	}
	switch {
	case len(b) == 0:
		return nil // exec closed the pipe; or the child was killed, which Wait will tell
	case len(b) == 4:
		return &ExecError{Name: s.Args[0], Err: syscall.Errno(binary.NativeEndian.Uint32(b))}
	}
	return supervisorError(b)
}
