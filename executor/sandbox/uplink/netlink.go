package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const loopbackIndex = 1 // in every network namespace

// requests are messages to the kernel's routing socket, sent and carried out together.
type requests struct {
	buf   []byte
	start int      // of the last message
	names []string // of the messages, for errors
}

// up raises an interface.
func (r *requests) up(index int32) {
	r.begin(fmt.Sprintf("bring interface %d up", index), unix.RTM_NEWLINK, 0, unix.IfInfomsg{Index: index, Flags: unix.IFF_UP, Change: unix.IFF_UP})
	r.end()
}

// veth makes the pair of interfaces. Without ARP, all that leaves through one end carries the address
// of that end as its destination. The kernel takes no notice of such frames where they come
// out, so they are for the packet socket alone.
func (r *requests) veth() {
	const flags = unix.IFF_NOARP
	r.begin("make a pair of veth interfaces", unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		unix.IfInfomsg{Index: insideIndex, Flags: flags, Change: flags})
	r.interfaceAttrs(insideName, insideMAC)
	info := r.nest(unix.IFLA_LINKINFO)
	r.attr(unix.IFLA_INFO_KIND, []byte("veth"))
	data := r.nest(unix.IFLA_INFO_DATA)
	peer := r.nest(1) // VETH_INFO_PEER
	r.put(unix.IfInfomsg{Index: outsideIndex, Flags: flags, Change: flags})
	r.interfaceAttrs(outsideName, outsideMAC)
	peer()
	data()
	info()
	r.end()
}

func (r *requests) interfaceAttrs(name string, mac [6]byte) {
	r.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	r.attr(unix.IFLA_ADDRESS, mac[:])
	r.attr(unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, mtu))
}

// address gives the inner interface an address.
func (r *requests) address(a netip.Addr, bits uint8) {
	r.begin("add address "+a.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		unix.IfAddrmsg{Family: family(a), Prefixlen: bits, Flags: unix.IFA_F_NODAD, Index: insideIndex})
	r.attr(unix.IFA_LOCAL, a.AsSlice())
	r.attr(unix.IFA_ADDRESS, a.AsSlice())
	r.end()
}

// defaultRoute leads everything of the gateway's family to it.
func (r *requests) defaultRoute(gateway netip.Addr) {
	r.begin("add a route by "+gateway.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		unix.RtMsg{Family: family(gateway), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST})
	r.attr(unix.RTA_GATEWAY, gateway.AsSlice())
	r.attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, insideIndex))
	r.end()
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// begin starts a message with the fixed part header; name says what it asks for.
func (r *requests) begin(name string, kind, flags uint16, header any) {
	r.start = len(r.buf)
	r.put(unix.NlMsghdr{Type: kind, Flags: flags | unix.NLM_F_REQUEST | unix.NLM_F_ACK, Seq: uint32(len(r.names))})
	r.put(header)
	r.names = append(r.names, name)
}

// end fills in the length of the message.
func (r *requests) end() {
	binary.NativeEndian.PutUint32(r.buf[r.start:], uint32(len(r.buf)-r.start))
}

func (r *requests) put(data any) {
	r.buf, _ = binary.Append(r.buf, binary.NativeEndian, data) // fails for what has no fixed size
}

func (r *requests) attr(kind uint16, value []byte) {
	end := r.nest(kind)
	r.buf = append(r.buf, value...)
	end()
}

// nest starts an attribute that what follows is part of, until the returned function is called.
func (r *requests) nest(kind uint16) (end func()) {
	start := len(r.buf)
	r.put(unix.RtAttr{Type: kind})
	return func() {
		binary.NativeEndian.PutUint16(r.buf[start:], uint16(len(r.buf)-start))
		for len(r.buf)%unix.RTA_ALIGNTO != 0 {
			r.buf = append(r.buf, 0)
		}
	}
}

// do sends the messages and returns what the kernel says against the first that it refuses.
func (r *requests) do() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, r.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 64<<10)
	for acks := 0; acks < len(r.names); {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		for b := answer[:n]; len(b) > 0; acks++ {
			if b, err = r.ack(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// ack reads one answer of b, and returns the rest.
func (r *requests) ack(b []byte) (rest []byte, err error) {
	var h unix.NlMsghdr
	var code int32
	if n, err := binary.Decode(b, binary.NativeEndian, &h); err != nil || int(h.Len) < n+4 || int(h.Len) > len(b) || h.Type != unix.NLMSG_ERROR || int(h.Seq) >= len(r.names) {
		return nil, errors.New("netlink: the answer makes no sense")
	}
	binary.Decode(b[unix.SizeofNlMsghdr:], binary.NativeEndian, &code)
	if code != 0 {
		return nil, fmt.Errorf("%s: %w", r.names[h.Seq], unix.Errno(-code))
	}
	return b[min((h.Len+3)&^3, uint32(len(b))):], nil
}
