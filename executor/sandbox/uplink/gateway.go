package uplink

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// maxFlows is how many flows a gateway carries at once, each with a descriptor of this process. More are refused.
const maxFlows = 1024

// A Gateway carries what leaves a network namespace, for as long as it is open.
type Gateway struct {
	resolvers []netip.AddrPort

	namespace *os.File
	counters  *os.File // its /proc/net/snmp
	endpoint  *endpoint
	reader    sync.WaitGroup
	seen      atomic.Bool  // a packet was read
	stack     *stack.Stack // made for the first packet, by serve; many processes never send one

	ctx    context.Context // of the flows
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	open   int // flows
	flows  sync.WaitGroup
	pings  map[pingFlow]*pingConn
}

// Open moves the calling thread to a network namespace of its own, which the thread must be allowed to make, and opens its
// gateway. Queries to the gateway's port 53 go to the resolvers.
func Open(resolvers []netip.AddrPort) (*Gateway, error) {
	s, err := unshare()
	if err != nil {
		return nil, err
	}
	e, err := newEndpoint(s.link)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	g := &Gateway{resolvers: resolvers, namespace: s.namespace, counters: s.counters, endpoint: e, pings: map[pingFlow]*pingConn{}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.reader.Go(g.serve)
	return g, nil
}

// Namespace returns the namespace, for setns.
func (g *Gateway) Namespace() *os.File { return g.namespace }

// Unused reports whether the namespace, in which no process is left, is as good as new if none could change its routes and
// interfaces: a connection leaves its port taken for a minute.
func (g *Gateway) Unused() bool {
	b := make([]byte, 4096)
	n, err := g.counters.ReadAt(b, 0)
	if n == 0 && err != nil {
		return false
	}
	text := string(b[:n])
	// All packets of IPv4 and all segments of TCP, those on the loopback interface among them.
	return !g.seen.Load() && counter(text, "Ip:", "OutRequests") == "0" && counter(text, "Tcp:", "OutSegs") == "0"
}

// counter returns a value of /proc/net/snmp, where a line of names comes before a line of values.
func counter(text, group, name string) string {
	at := -1
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != group {
			continue
		}
		if at >= 0 && at < len(fields) {
			return fields[at]
		}
		at = slices.Index(fields, name)
	}
	return ""
}

// Close ends all flows and waits until they are gone.
//
// The kernel takes 10 to 40 ms to close a packet socket (it waits until no processor may use it any more), and
// nothing depends on it: that is not waited for. A nil Gateway is closed.
func (g *Gateway) Close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.endpoint.link.SetReadDeadline(time.Unix(1, 0))
	g.reader.Wait()
	g.flows.Wait()
	if g.stack != nil {
		g.stack.Destroy()
	}
	g.namespace.Close()
	g.counters.Close()
	go g.endpoint.link.Close()
}

// serve reads the link until its deadline.
func (g *Gateway) serve() {
	buf := make([]byte, maxFrame)
	for {
		packet, err := g.endpoint.read(buf)
		if err != nil {
			return
		}
		g.seen.Store(true)
		if g.ping(packet) {
			continue
		}
		if g.stack == nil {
			if g.stack, err = g.newStack(); err != nil {
				return // the sandbox finds that nobody answers
			}
		}
		g.endpoint.deliver(packet)
	}
}

// begin counts a flow in, unless there are too many or the gateway is being closed; end counts it out.
func (g *Gateway) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.open == maxFlows {
		return false
	}
	g.open++
	g.flows.Add(1)
	return true
}

func (g *Gateway) end() {
	g.mu.Lock()
	g.open--
	g.mu.Unlock()
	g.flows.Done()
}

// newStack makes a network stack that takes every address for its own.
func (g *Gateway) newStack() (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	const nic = 1
	for _, err := range []tcpip.Error{
		s.CreateNIC(nic, g.endpoint),
		s.SetPromiscuousMode(nic, true), // takes packets to any address
		s.SetSpoofing(nic, true),        // and answers from there
		setOptions(s),
	} {
		if err != nil {
			return nil, fmt.Errorf("network stack: %v", err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, window, maxFlows, g.forwardTCP).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, g.forwardUDP).HandlePacket)
	return s, nil
}

// window is how much a sender may have on its way to the gateway. The link has no latency that more would
// make up for, and what does not fit in the buffer of the packet socket is lost.
const window = 212992

func setOptions(s *stack.Stack) tcpip.Error {
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: window, Max: window}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// destination returns where a flow wants to go.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	a, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(a, id.LocalPort)
}

// dial connects to where a flow to address goes.
func (g *Gateway) dial(network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}
