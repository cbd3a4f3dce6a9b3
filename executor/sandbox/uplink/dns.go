package uplink

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// patience is how long a resolver has before the next one is asked as well.
	patience = 2 * time.Second
	// maxQueries is how many queries of one socket are under way at once.
	maxQueries = 64
	// maxAnswer is the longest answer over UDP.
	maxAnswer = 64 << 10
)

// answer answers the queries that arrive on a socket. They are passed on as they are: what the host's resolver
// knows, the sandbox knows.
func (g *Gateway) answer(inside net.Conn) {
	defer inside.Close()
	defer context.AfterFunc(g.ctx, func() { inside.Close() })()
	timer := time.AfterFunc(idle, func() { inside.Close() })
	defer timer.Stop()
	var queries sync.WaitGroup
	defer queries.Wait()
	slots := make(chan struct{}, maxQueries)
	buf := make([]byte, maxAnswer)
	for {
		n, err := inside.Read(buf)
		if err != nil {
			return
		}
		timer.Reset(idle)
		query := append([]byte(nil), buf[:n]...)
		slots <- struct{}{}
		queries.Go(func() {
			defer func() { <-slots }()
			if reply := g.ask(query); reply != nil {
				inside.Write(reply)
			}
		})
	}
}

// ask asks the resolvers, the first one first, and returns the first reply; nil when there is none.
func (g *Gateway) ask(query []byte) []byte {
	for _, r := range g.resolvers {
		if reply, err := g.exchange(r, query); err == nil {
			return reply
		}
	}
	return nil
}

func (g *Gateway) exchange(resolver netip.AddrPort, query []byte) ([]byte, error) {
	c, err := g.dial("udp", resolver)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(g.ctx, func() { c.Close() })()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	reply := make([]byte, maxAnswer)
	for {
		n, err := c.Read(reply)
		if err != nil {
			return nil, err
		}
		if n >= 2 && len(query) >= 2 && [2]byte(reply) == [2]byte(query) { // the query's number
			return reply[:n], nil
		}
	}
}
