package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox/oneuid"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
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
func (s *Spec) filter() (seccomp.Filter, error) {
	p := s.policy()
	key := fmt.Sprintf("%#v", p)
	if f, ok := filters.Load(key); ok {
		return f.(seccomp.Filter), nil
	}
	f, err := seccomp.Compile(p)
	if err == nil {
		filters.Store(key, f)
	}
	return f, err
}

// emulate begins to answer calls of the process with Spec.OneUID. One that has ended already makes none; why it has is for
// the report or for wait to tell.
func (p *Process) emulate(ctx context.Context, spec *Spec) error {
	if !spec.OneUID {
		return nil
	}
	p.listener[1].Close()
	files, err := receiveFiles(p.listener[0])
	if err != nil {
		return fmt.Errorf("emulate users: %w", err)
	}
	if len(files) == 0 {
		return nil
	}
	cfg := oneuid.Config{
		Root: fmt.Sprintf("/proc/%d/root", p.process.Pid), UID: spec.UID, GID: spec.GID, Groups: spec.Groups,
		Upper: spec.Root.Upper, Links: spec.Links, Began: p.began,
	}
	if spec.Root.Flat != "" {
		cfg.Upper = spec.Root.Flat
	}
	if spec.Chroot { // the process we have started is its supervisor, and that is elsewhere
		cfg.Root = spec.Root.Flat
	}
	users, err := oneuid.Serve(files[0], cfg)
	if ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("emulate users: %w", err)
	}
	p.users = users
	return nil
}

// socketPair returns two connected sockets, the second one for a child to send files through.
func socketPair(name string) (pair [2]*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return pair, fmt.Errorf("socketpair: %w", err)
	}
	for i, fd := range fds {
		pair[i] = os.NewFile(uintptr(fd), name)
	}
	return pair, nil
}

// receiveFiles returns the files that come through a socket; none when the other end is closed.
func receiveFiles(from *os.File) ([]*os.File, error) {
	rights := make([]byte, unix.CmsgSpace(4*4))
	var n int
	for {
		var err error
		_, n, _, _, err = unix.Recvmsg(int(from.Fd()), make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), from.Name())
	}
	return files, nil
}
