package uplink

import (
	"context"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// idle is after how long without a packet a UDP flow is forgotten.
const idle = time.Minute

// forwardUDP starts a flow. When it returns false, the stack says that the port is unreachable.
func (g *Gateway) forwardUDP(r *udp.ForwarderRequest) bool {
	to := destination(r.ID())
	query, ok := isResolver(to), true
	if !query {
		to, ok = outward(to)
	}
	if !ok || !g.begin() {
		return false
	}
	var outside net.Conn
	var err error
	if !query {
		if outside, err = g.dial("udp", to); err != nil { // sends nothing yet
			g.end()
			return false
		}
	}
	var queue waiter.Queue
	ep, tcpErr := r.CreateEndpoint(&queue)
	if tcpErr != nil {
		if outside != nil {
			outside.Close()
		}
		g.end()
		return true
	}
	inside := gonet.NewUDPConn(&queue, ep)
	go func() {
		defer g.end()
		if query {
			g.answer(inside)
		} else {
			relay(g.ctx, inside, outside)
		}
	}()
	return true
}

// relay copies packets both ways until there have been none for a while.
func relay(ctx context.Context, a, b net.Conn) {
	end := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	defer end()
	defer context.AfterFunc(ctx, end)()
	timer := time.AfterFunc(idle, end)
	defer timer.Stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			defer end()
			copyPackets(way[1], way[0], func() { timer.Reset(idle) })
		})
	}
	both.Wait()
}

// copyPackets copies packets until from has no more. A packet that cannot be sent is lost.
func copyPackets(to, from net.Conn, each func()) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		each()
		to.Write(buf[:n])
	}
}
