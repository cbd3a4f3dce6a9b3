package sandbox

import (
	"fmt"
	"os"

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

// enterNetwork brings the child into the network of the plan. A namespace of its own it makes itself, inside, where it
// may; what the gateway needs goes to the parent, which has the sockets.
func (p *plan) enterNetwork() error {
	switch {
	case p.Network == NetworkNone:
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
	case p.Network == NetworkDefault && p.Join:
		if err := unix.Setns(networkFD, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the network namespace: %w", err)
		}
	case p.Network == NetworkDefault:
		fds, err := uplink.Unshare()
		if err != nil {
			return &NetworkError{err}
		}
		if err := unix.Sendmsg(networkFD, []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
			return fmt.Errorf("hand over the network namespace: %w", err)
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

// A network is the parent's part of NetworkDefault for one sandbox.
type network struct {
	gateway *uplink.Gateway
	sockets [2]*os.File // when there is no gateway yet; the child sends what it needs through the second one
}

// newNetwork returns the network for spec: one that an earlier sandbox left unused, or one that the child has to make.
func (r *Runner) newNetwork(spec *Spec) (*network, error) {
	n := &network{}
	if spec.Network != NetworkDefault {
		return n, nil
	}
	r.mu.Lock()
	if last := len(r.free) - 1; last >= 0 {
		n.gateway, r.free = r.free[last], r.free[:last]
	}
	r.mu.Unlock()
	if n.gateway != nil {
		return n, nil
	}
	var err error
	n.sockets, err = socketPair("network")
	return n, err
}

// socketPair returns two connected sockets.
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

// childFile returns the child's networkFD, or nil.
func (n *network) childFile() *os.File {
	if n.gateway != nil {
		return n.gateway.Namespace()
	}
	return n.sockets[1]
}

// connect waits until the child has made a namespace, and opens its gateway. A child that fails before makes none.
func (r *Runner) connect(n *network) error {
	if n.sockets[0] == nil {
		return nil
	}
	n.sockets[1].Close()
	defer n.sockets[0].Close()
	files, err := receiveFiles(n.sockets[0])
	if err != nil || len(files) == 0 {
		return err
	}
	n.gateway, err = uplink.Open(files, r.Resolvers)
	return err
}

// release lets go of the network of a sandbox that has ended.
func (r *Runner) release(n *network) {
	for _, s := range n.sockets {
		if s != nil {
			s.Close()
		}
	}
	if n.gateway == nil {
		return
	}
	unused := n.gateway.Unused()
	r.mu.Lock()
	if unused && !r.closed {
		r.free = append(r.free, n.gateway)
		n.gateway = nil
	}
	r.mu.Unlock()
	n.gateway.Close()
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
