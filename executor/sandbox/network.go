package sandbox

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox/uplink"
)

// A NetworkError says that this host has no NetworkDefault to give. Nothing has happened: the same Spec with
// another network can be started.
type NetworkError struct{ Err error }

// Error returns the text of the cause.
func (e *NetworkError) Error() string { return fmt.Sprintf("a network for the sandbox: %v", e.Err) }

// Unwrap returns the cause.
func (e *NetworkError) Unwrap() error { return e.Err }

// enter brings this thread into the network of the plan.
func (n *network) enter(kind Network) error {
	switch {
	case kind == NetworkNone:
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
	case kind == NetworkDefault && n.gateway != nil:
		if err := unix.Setns(int(n.gateway.Namespace().Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the network namespace: %w", err)
		}
	case kind == NetworkDefault:
		var err error
		if n.gateway, err = uplink.Open(n.resolvers); err != nil {
			return &NetworkError{err}
		}
	}
	return nil
}

// raiseLoopback makes 127.0.0.1 reachable in a new network namespace.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// A network is the way out of one sandbox with NetworkDefault.
type network struct {
	gateway   *uplink.Gateway // nil before the first sandbox that uses it has started
	resolvers []netip.AddrPort
	exposed   bool // to a process that may have changed it
}

// newNetwork returns a network of that kind: one that an earlier sandbox left unused, or one to be made.
func (r *Runner) newNetwork(kind Network) *network {
	n := &network{resolvers: r.Resolvers}
	if kind != NetworkDefault {
		return n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := len(r.free) - 1; last >= 0 {
		n.gateway, r.free = r.free[last], r.free[:last]
	}
	return n
}

// release lets go of the network of a sandbox that has ended or has never come to be.
func (r *Runner) release(n *network) {
	if n.gateway == nil {
		return
	}
	unused := !n.exposed && n.gateway.Unused()
	r.mu.Lock()
	if unused && !r.closed {
		r.free = append(r.free, n.gateway)
		n.gateway = nil
	}
	r.mu.Unlock()
	n.gateway.Close()
}
