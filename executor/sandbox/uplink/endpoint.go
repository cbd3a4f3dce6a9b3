package uplink

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// receiveBuffer is what the packet socket may hold until it is read. Hosts allow far less by default (212,992 bytes,
// of which the kernel counts twice as much), which is why the window of a flow is small: see stackOptions.
const receiveBuffer = 4 << 20

// The header before each frame, struct virtio_net_hdr, says what is left undone: the checksum, and
// the cutting into segments.
const (
	offloadHeader  = 10
	needsChecksum  = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	segmentsTCP4   = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	segmentsTCP6   = 4 // VIRTIO_NET_HDR_GSO_TCPV6
	maxFrame       = offloadHeader + frameHeader + 1<<16
	framePreamble  = offloadHeader + frameHeader
	etherTypeStart = framePreamble - 2
)

// An endpoint is the packet socket in the form that the network stack wants: a stack.LinkEndpoint. There is one station
// at the other end of the link, so the Ethernet header is always the same and the stack sees IP packets alone.
type endpoint struct {
	link       *os.File
	conn       syscall.RawConn
	dispatcher stack.NetworkDispatcher
}

var _ stack.GSOEndpoint = (*endpoint)(nil)

func newEndpoint(link *os.File) (*endpoint, error) {
	conn, err := link.SyscallConn()
	return &endpoint{link: link, conn: conn}, err
}

// read waits for the next frame, and returns its packet, which is part of buf. The link's deadline ends it.
func (e *endpoint) read(buf []byte) (packet []byte, err error) {
	for len(packet) == 0 {
		n, err := e.link.Read(buf)
		if err != nil {
			return nil, err
		}
		packet = buf[min(framePreamble, n):n]
	}
	return packet, nil
}

// deliver gives a packet from the link to the stack.
func (e *endpoint) deliver(packet []byte) {
	protocol := header.IPv4ProtocolNumber
	if header.IPVersion(packet) == header.IPv6Version {
		protocol = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	e.dispatcher.DeliverNetworkPacket(protocol, pkt)
	pkt.DecRef()
}

// WritePackets implements stack.LinkWriter. What the link cannot take now is lost, as on every link.
func (e *endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		preamble := preambleOf(pkt)
		e.write(append([][]byte{preamble[:]}, pkt.AsSlices()...))
	}
	return list.Len(), nil
}

func (e *endpoint) write(frame [][]byte) {
	e.conn.Write(func(fd uintptr) bool {
		unix.Writev(int(fd), frame)
		return true
	})
}

// preambleOf returns the headers before the packet of pkt.
func preambleOf(pkt *stack.PacketBuffer) (b [framePreamble]byte) {
	if o := pkt.GSOOptions; o.Type != stack.GSONone {
		if o.NeedsCsum {
			b[0] = needsChecksum
			binary.NativeEndian.PutUint16(b[6:], frameHeader+o.L3HdrLen)
			binary.NativeEndian.PutUint16(b[8:], o.CsumOffset)
		}
		if pkt.Data().Size() > int(o.MSS) {
			b[1] = segmentsTCP4
			if o.Type == stack.GSOTCPv6 {
				b[1] = segmentsTCP6
			}
			binary.NativeEndian.PutUint16(b[2:], uint16(frameHeader+pkt.HeaderSize()))
			binary.NativeEndian.PutUint16(b[4:], o.MSS)
		}
	}
	putFrameHeader(b[offloadHeader:], uint16(pkt.NetworkProtocolNumber))
	return b
}

// putFrameHeader writes an Ethernet header for the inner end.
func putFrameHeader(b []byte, protocol uint16) {
	copy(b, insideMAC[:])
	copy(b[6:], outsideMAC[:])
	binary.BigEndian.PutUint16(b[12:], protocol)
}

// Attach implements stack.NetworkLinkEndpoint.
func (e *endpoint) Attach(d stack.NetworkDispatcher) { e.dispatcher = d }

// IsAttached implements stack.NetworkLinkEndpoint.
func (e *endpoint) IsAttached() bool { return e.dispatcher != nil }

// MTU implements stack.NetworkLinkEndpoint.
func (e *endpoint) MTU() uint32 { return mtu }

// GSOMaxSize implements stack.GSOEndpoint.
func (e *endpoint) GSOMaxSize() uint32 { return 1 << 16 }

// SupportedGSO implements stack.GSOEndpoint.
func (e *endpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// Capabilities implements stack.NetworkLinkEndpoint. Packets that come from the kernel of this very host are not
// damaged, and have no checksum yet.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// The rest of stack.LinkEndpoint is about headers and addresses that the stack need not know of.

func (e *endpoint) SetMTU(uint32)                           {}
func (e *endpoint) MaxHeaderLength() uint16                 { return 0 }
func (e *endpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (e *endpoint) AddHeader(*stack.PacketBuffer)           {}
func (e *endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (e *endpoint) Wait()                                   {}
func (e *endpoint) Close()                                  {}
func (e *endpoint) SetOnCloseAction(func())                 {}
