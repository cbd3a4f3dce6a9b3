// Package uplink connects a network namespace that has nothing but itself to the network of this
// process, with no privilege outside of that namespace and no helper program.
//
// Inside, Open makes a pair of virtual interfaces: the process of a sandbox sees eth0, and a packet
// socket takes what leaves through the other end. Outside, the Gateway ends the TCP and UDP flows
// among those packets in a network stack of its own and carries their content over ordinary
// sockets. The package knows nothing of sandboxes.
package uplink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// The addresses on the link. 192.0.0.0/29 is set aside for the two ends of a link that is known to one host only
// (RFC 7335), so it hides nothing that a network may have. The IPv6 ones are local (RFC 4193).
var (
	Gateway4 = netip.MustParseAddr("192.0.0.1")
	Inside4  = netip.MustParseAddr("192.0.0.2")
	Gateway6 = netip.MustParseAddr("fd62:7569:6c64::1")
	Inside6  = netip.MustParseAddr("fd62:7569:6c64::2")
)

const (
	// mtu spares most of the work per packet. No packet leaves the host in this size: flows end
	// at the gateway, and the host's own sockets know what their paths can take.
	mtu = 65000

	insideName, outsideName   = "eth0", "uplink"
	insideIndex, outsideIndex = 1000, 1001 // far from those of devices that every new namespace has

	frameHeader = 14 // of Ethernet
)

var insideMAC, outsideMAC = [6]byte{2, 0, 192, 0, 0, 2}, [6]byte{2, 0, 192, 0, 0, 1}

// A space is a network namespace that a thread has moved to, as files: the namespace, its counters, and the
// packet socket at the outer end of its link. It keeps what is sent inside.
type space struct{ namespace, counters, link *os.File }

// unshare moves the calling thread to a space of its own. IPv6 leads out if it leads out from where the thread was.
func unshare() (s space, err error) {
	ipv6 := hasIPv6()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return s, fmt.Errorf("new network namespace: %w", err)
	}
	if err := configure(ipv6); err != nil {
		return s, err
	}
	for _, f := range []struct {
		file **os.File
		open func() (int, error)
	}{{&s.namespace, openNamespace}, {&s.counters, openCounters}, {&s.link, openLink}} {
		fd, err := f.open()
		if err != nil {
			s.close()
			return s, err
		}
		*f.file = os.NewFile(uintptr(fd), "network")
	}
	return s, nil
}

// close closes the files that are there.
func (s space) close() {
	s.namespace.Close()
	s.counters.Close()
	s.link.Close()
}

func openNamespace() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, named("/proc/thread-self/ns/net", err)
}

func openCounters() (int, error) {
	fd, err := unix.Open("/proc/thread-self/net/snmp", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, named("/proc/thread-self/net/snmp", err)
}

// openLink opens the packet socket at the outer end.
func openLink() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = listen(fd); err != nil {
			unix.Close(fd)
		}
	}
	return fd, named("packet socket", err)
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// hasIPv6 reports whether there is a route to the addresses of the internet.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	somewhere := netip.MustParseAddr("2000::1") // the first of the global ones; connecting sends nothing
	return unix.Connect(fd, &unix.SockaddrInet6{Port: 53, Addr: somewhere.As16()}) == nil
}

// configure makes the interfaces of the namespace, with their addresses and routes, in one go.
func configure(ipv6 bool) error {
	var r requests
	r.up(loopbackIndex)
	r.veth()
	r.up(outsideIndex) // first: an interface without a carrier drops packets until a worker of the kernel sees it
	r.up(insideIndex)
	r.address(Inside4, 29)
	r.defaultRoute(Gateway4)
	if ipv6 {
		r.address(Inside6, 64)
		r.defaultRoute(Gateway6)
	}
	return r.do()
}

// listen makes fd take what comes out of the outer end.
func listen(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},        // checksums and segments may be left undone
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}, // what the kernel itself sends there is for nobody
		{unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer}, // as much of it as the host allows
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	// Frames to a group, which a fresh interface sends many of, wake nobody up.
	noGroups := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 1, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := &unix.SockFprog{Len: uint16(len(noGroups)), Filter: &noGroups[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: outsideIndex})
}

// bigEndian returns n in the byte order of the network.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
