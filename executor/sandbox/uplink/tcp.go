package uplink

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// forwardTCP carries one connection. The process inside is told that it is connected once we are.
func (g *Gateway) forwardTCP(r *tcp.ForwarderRequest) {
	if !g.begin() {
		r.Complete(true)
		return
	}
	defer g.end()
	outside, err := g.dialTCP(destination(r.ID()))
	if err != nil {
		r.Complete(true)
		return
	}
	defer outside.Close()
	var queue waiter.Queue
	ep, tcpErr := r.CreateEndpoint(&queue)
	r.Complete(tcpErr != nil)
	if tcpErr != nil {
		return
	}
	ep.SocketOptions().SetDelayOption(false)
	carry(g.ctx, outside, &insideConn{gonet.NewTCPConn(&queue, ep), ep})
}

var errRefused = errors.New("refused")

func (g *Gateway) dialTCP(to netip.AddrPort) (*net.TCPConn, error) {
	var targets []netip.AddrPort
	if isResolver(to) {
		targets = g.resolvers
	} else if t, ok := outward(to); ok {
		targets = []netip.AddrPort{t}
	}
	err := errRefused
	for _, t := range targets {
		var c net.Conn
		if c, err = g.dial("tcp", t); err == nil {
			return c.(*net.TCPConn), nil
		}
	}
	return nil, err
}

// A stream is a connection whose directions end one at a time.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
	// abort ends the connection so that the other end sees a failure.
	abort()
}

// An insideConn is the end of a connection towards the sandbox.
type insideConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

func (c *insideConn) abort() { c.ep.Abort() }

// An outsideConn is the end of a connection towards the world.
type outsideConn struct{ *net.TCPConn }

func (c outsideConn) abort() {
	c.SetLinger(0)
	c.Close()
}

// carry copies both ways until both have ended. A connection that fails on one side fails on the other: a
// download that was cut off must not look complete.
func carry(ctx context.Context, tcpConn *net.TCPConn, inside stream) {
	outside := outsideConn{tcpConn}
	abort := sync.OnceFunc(func() {
		inside.abort()
		outside.abort()
	})
	stop := context.AfterFunc(ctx, abort)
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]stream{{inside, outside}, {outside, inside}} {
		both.Go(func() {
			if err := copyStream(way[1], way[0]); err != nil {
				abort()
				return
			}
			way[1].CloseWrite()
		})
	}
	both.Wait()
	inside.Close()
}

// buffers are for copies.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

func copyStream(to io.Writer, from io.Reader) error {
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	// Without the methods that net.TCPConn has for files and pipes, of which neither is one.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buf[:])
	return err
}
