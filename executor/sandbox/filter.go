package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	listener, err := seccomp.Install(f, p.OneUID)
	if err != nil || !p.OneUID {
		return err
	}
	return unix.Sendmsg(p.Listener, []byte{0}, unix.UnixRights(listener), nil, 0)
}

// emulate begins to answer calls of the process with Spec.OneUID, which has executed its command. One that
// has ended already makes none; why it has is for wait to tell.
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
		Root: fmt.Sprintf("/proc/%d/root", p.cmd.Process.Pid), UID: spec.UID, GID: spec.GID, Groups: spec.Groups,
		Upper: spec.Root.Upper, Links: spec.Links,
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
