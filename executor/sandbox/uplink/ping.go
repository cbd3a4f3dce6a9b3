package uplink

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The stack would answer every ping by itself, for hosts that are not there. Pings go around it: each to the
// real host, through a socket of the kind that needs no privilege where net.ipv4.ping_group_range
// allows it, or the other kind where we are root.

// A pingFlow is what one ping process sends to one host.
type pingFlow struct {
	to netip.Addr
	id uint16
}

// A pingConn is the host's socket for a flow. It has an identifier of its own, or other pings of this host would
// be mistaken for it.
type pingConn struct {
	net.Conn
	id uint16 // of a raw socket; for others the kernel sees to it
}

// send sends an echo request.
func (c *pingConn) send(message []byte) {
	if c.id != 0 {
		binary.BigEndian.PutUint16(message[2:], 0)
		binary.BigEndian.PutUint16(message[4:], c.id)
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, 0)) // the kernel does it for IPv6
	}
	c.Write(message)
}

// isReply reports whether message, which came through c, answers one of its requests.
func (c *pingConn) isReply(message []byte) bool {
	if len(message) < header.ICMPv4MinimumSize {
		return false
	}
	reply := message[0] == byte(header.ICMPv4EchoReply) || message[0] == byte(header.ICMPv6EchoReply)
	return reply && (c.id == 0 || binary.BigEndian.Uint16(message[4:]) == c.id)
}

// ping takes care of packet if it is an echo request.
func (g *Gateway) ping(packet []byte) bool {
	to, message, ok := echoRequest(packet)
	if !ok {
		return false
	}
	if !mayReach(to) && to != Gateway4 && to != Gateway6 {
		return true
	}
	flow := pingFlow{to, binary.BigEndian.Uint16(message[4:])}
	if to == Gateway4 || to == Gateway6 {
		g.pong(flow, asReply(message, to))
		return true
	}
	g.mu.Lock()
	c := g.pings[flow]
	g.mu.Unlock()
	if c == nil {
		if c = g.newPing(flow); c == nil {
			return true
		}
	}
	c.SetReadDeadline(time.Now().Add(idle))
	c.send(message)
	return true
}

// echoRequest returns the destination and the ICMP message of packet, if it is an echo request in one piece.
func echoRequest(packet []byte) (to netip.Addr, message []byte, ok bool) {
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		h := header.IPv4(packet)
		if !h.IsValid(len(packet)) || h.Protocol() != uint8(header.ICMPv4ProtocolNumber) || h.More() || h.FragmentOffset() != 0 {
			return to, nil, false
		}
		message = packet[h.HeaderLength():h.TotalLength()]
		to, _ = netip.AddrFromSlice(packet[16:20])
		return to, message, len(message) >= header.ICMPv4MinimumSize && message[0] == byte(header.ICMPv4Echo)
	case header.IPv6Version:
		h := header.IPv6(packet)
		if !h.IsValid(len(packet)) || h.TransportProtocol() != header.ICMPv6ProtocolNumber {
			return to, nil, false
		}
		message = packet[header.IPv6MinimumSize:][:h.PayloadLength()]
		to, _ = netip.AddrFromSlice(packet[24:40])
		return to, message, len(message) >= header.ICMPv6EchoMinimumSize && message[0] == byte(header.ICMPv6EchoRequest)
	}
	return to, nil, false
}

// asReply makes an echo request from the gateway's own address the answer to it.
func asReply(message []byte, from netip.Addr) []byte {
	message[0] = byte(header.ICMPv4EchoReply)
	if from.Is6() {
		message[0] = byte(header.ICMPv6EchoReply)
	}
	return message
}

// newPing opens the socket of a flow and starts to pass on what comes back; nil if that is not to be.
func (g *Gateway) newPing(flow pingFlow) *pingConn {
	if !g.begin() {
		return nil
	}
	c, err := dialPing(flow.to)
	if err != nil {
		g.end()
		return nil
	}
	g.mu.Lock()
	g.pings[flow] = c
	g.mu.Unlock()
	go func() {
		defer g.end()
		g.returnPings(flow, c)
		g.mu.Lock()
		delete(g.pings, flow)
		g.mu.Unlock()
	}()
	return c
}

// dialPing opens an ICMP socket that is connected to a host.
func dialPing(to netip.Addr) (*pingConn, error) {
	conn, err := dialICMP(to)
	if err == nil {
		return &pingConn{Conn: conn}, nil
	}
	raw := "ip4:icmp"
	if to.Is6() {
		raw = "ip6:ipv6-icmp"
	}
	if conn, rawErr := net.Dial(raw, to.String()); rawErr == nil {
		return &pingConn{conn, uint16(1 + rand.N(1<<16-1))}, nil
	}
	return nil, err
}

// dialICMP opens a socket that takes no privilege.
func dialICMP(to netip.Addr) (net.Conn, error) {
	domain, protocol := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		domain, protocol = unix.AF_INET, unix.IPPROTO_ICMP
		address = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close() // FileConn duplicates it
	if err := unix.Connect(fd, address); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// returnPings passes replies on until there are none for a while.
func (g *Gateway) returnPings(flow pingFlow, c *pingConn) {
	defer c.Close()
	defer context.AfterFunc(g.ctx, func() { c.Close() })()
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if c.isReply(buf[:n]) {
			g.pong(flow, buf[:n])
		}
	}
}

// pong sends a reply to the sandbox, with the identifier that the request had.
func (g *Gateway) pong(flow pingFlow, message []byte) {
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[4:], flow.id)
	from := tcpip.AddrFromSlice(flow.to.AsSlice())
	var ip []byte
	protocol := header.IPv4ProtocolNumber
	if flow.to.Is4() {
		ip = make([]byte, header.IPv4MinimumSize)
		header.IPv4(ip).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip) + len(message)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: from, DstAddr: tcpip.AddrFrom4(Inside4.As4()),
		})
		header.IPv4(ip).SetChecksum(^header.IPv4(ip).CalculateChecksum())
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, 0))
	} else {
		to := tcpip.AddrFrom16(Inside6.As16())
		protocol = header.IPv6ProtocolNumber
		ip = make([]byte, header.IPv6MinimumSize)
		header.IPv6(ip).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(message)), HopLimit: 64, TransportProtocol: header.ICMPv6ProtocolNumber, SrcAddr: from, DstAddr: to,
		})
		pseudo := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, from, to, uint16(len(message)))
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, pseudo))
	}
	var preamble [framePreamble]byte
	putFrameHeader(preamble[offloadHeader:], uint16(protocol))
	g.endpoint.write([][]byte{preamble[:], ip, message})
}
