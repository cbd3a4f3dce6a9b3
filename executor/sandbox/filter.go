package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/seed0570efb0/build/executor/sandbox/oneuid"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"golang.org/x/sys/unix"
)

// policy returns what the filter of s does.
func (s *Spec) policy() seccomp.Policy {
	p := seccomp.Policy{Profile: s.Seccomp, Caps: s.Caps, NoSync: s.NoSync}
	if p.Profile == "" {
		p.Profile = seccomp.Default
	}
	if s.OneUID {
		p.Notify, p.Deny = oneuid.Calls(len(s.Links) > 0), oneuid.Denied()
	}
	return p
}

// filters holds those made before, by the text of their policy: a build has few of them, and
// making one takes longer than many a step.
var filters sync.Map

// filter returns the program for the system calls of s, empty if there is none.
func (s *Spec) filter() ([]byte, error) {
	p := s.policy()
	key := fmt.Sprintf("%#v", p)
	if b, ok := filters.Load(key); ok {
		return b.([]byte), nil
	}
	f, err := seccomp.Compile(p)
	if err != nil {
		return nil, err
	}
	b, err := f.MarshalBinary()
	if err == nil {
		filters.Store(key, b)
	}
	return b, err
}

// confine puts this thread under the filter of the plan, and sends the parent the descriptor where
// it gets the calls that it answers.
func (p *plan) confine() error {
	if len(p.Filter) == 0 {
		return nil
	}
	var f seccomp.Filter
	if err := f.UnmarshalBinary(p.Filter); err != nil {
		return err
	}
	listener, err := seccomp.Install(f, p.Spec.OneUID)
	if err != nil || !p.Spec.OneUID {
		return err
	}
	return unix.Sendmsg(listenerFD, []byte{0}, unix.UnixRights(listener), nil, 0)
}

// supervise begins to answer calls of the process, which sent the descriptor for them through socket.
func (p *Process) supervise(spec *Spec, socket *os.File) error {
	listener, err := receiveFD(socket)
	if err != nil {
		return fmt.Errorf("emulate users: %w", err)
	}
	p.users, err = oneuid.Serve(listener, oneuid.Config{
		PID: p.cmd.Process.Pid, UID: spec.UID, GID: spec.GID, Groups: spec.Groups,
		Upper: spec.Root.Upper, Links: spec.Links,
	})
	if err != nil {
		return fmt.Errorf("emulate users: %w", err)
	}
	return nil
}

// receiveFD receives a descriptor that was sent before.
func receiveFD(socket *os.File) (*os.File, error) {
	data, space := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), data, space, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("recvmsg: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(space[:n])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "listener"), nil
		}
	}
	return nil, errors.New("recvmsg: no descriptor came")
}

// socketPair returns two connected sockets.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
