package uplink

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzFrames gives a gateway what a hostile sandbox may send: root of a network namespace writes frames as it likes. No
// flow leaves it.
func FuzzFrames(f *testing.F) {
	header := make([]byte, framePreamble)
	for _, packet := range []string{
		"",
		"\x45",
		"\x45\x00\x00\x14\x00\x00\x20\x00\x40\x06\x00\x00\xc0\x00\x00\x02\x08\x08\x08\x08",                                                                                 // a fragment
		"\x4f\x00\x00\x3c\x00\x00\x00\x00\x40\x11\x00\x00\xc0\x00\x00\x02\x7f\x00\x00\x01",                                                                                 // options that are missing
		"\x45\x00\x00\x28\x00\x00\x00\x00\x40\x06\x00\x00\xc0\x00\x00\x02\x08\x08\x08\x08\x30\x39\x00\x50\x00\x00\x00\x00\x00\x00\x00\x00\x50\x02\x20\x00\x00\x00\x00\x00", // SYN
		"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x11\x00\x00\xc0\x00\x00\x02\xc0\x00\x00\x01\x30\x39\x00\x35\xff\xff\x00\x00",                                                 // UDP that is too long
		"\x60\x00\x00\x00\xff\xff\x00\x40" + "0123456789abcdeffedcba9876543210" + "\x3a\xff",                                                                               // extension headers
		"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x01\x00\x00\xc0\x00\x00\x02\x08\x08\x08\x08\x08\x00\x00\x00\x12\x34\x00\x01",                                                 // ping
	} {
		f.Add(append(header[:framePreamble:framePreamble], packet...))
	}
	f.Add(header[:3])
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > maxFrame {
			return
		}
		g, sandbox := closedGateway(t)
		defer sandbox.Close()
		var err error
		if g.stack, err = g.newStack(); err != nil {
			t.Fatal(err)
		}
		defer g.stack.Destroy()
		for range 2 { // the second one may meet what the first one has left
			packet := frame[min(framePreamble, len(frame)):]
			if len(packet) == 0 || g.ping(packet) {
				continue
			}
			g.endpoint.deliver(packet)
		}
	})
}

// closedGateway returns a gateway that begins no flow, and the other end of its link.
func closedGateway(t *testing.T) (*Gateway, *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	link := os.NewFile(uintptr(pair[0]), "link")
	t.Cleanup(func() { link.Close() })
	e, err := newEndpoint(link)
	if err != nil {
		t.Fatal(err)
	}
	resolvers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}
	return &Gateway{resolvers: resolvers, endpoint: e, pings: map[pingFlow]*pingConn{}, closed: true, ctx: t.Context()}, os.NewFile(uintptr(pair[1]), "sandbox")
}
