package sandbox

import (
	"fmt"
	"sync"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
)

// policy returns what the filter of s does.
func (s *Spec) policy() seccomp.Policy {
	p := seccomp.Policy{Profile: s.Seccomp, Caps: s.Caps, NoSync: s.NoSync}
	if p.Profile == "" {
		p.Profile = seccomp.Default
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

// confine puts this thread under the filter of the plan.
func (p *plan) confine() error {
	if len(p.Filter) == 0 {
		return nil
	}
	var f seccomp.Filter
	if err := f.UnmarshalBinary(p.Filter); err != nil {
		return err
	}
	_, err := seccomp.Install(f, false)
	return err
}
