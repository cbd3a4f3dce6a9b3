package executor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/executor/sandbox/uplink"
	"github.com/seed0570efb0/build/llb"
)

// networks is what an executor knows of the networks of its processes.
type networks struct {
	runner sandbox.Runner
	ready  sync.Once   // sets up runner
	shared atomic.Bool // the default network is that of the host: it has no other to give
}

// network returns what a process gets that asks for n; "" is the default.
func (x *Executor) network(n llb.Network) sandbox.Network {
	switch {
	case n == llb.NetworkNone:
		return sandbox.NetworkNone
	case n == llb.NetworkHost, x.shared.Load(), x.Root == sandbox.RootChroot: // a chroot has no network of its own
		return sandbox.NetworkHost
	}
	return sandbox.NetworkDefault
}

// setUp makes the runner ready.
func (x *Executor) setUp() {
	x.ready.Do(func() { x.runner.Resolvers = resolvers(hostResolvConf()) })
}

// start starts c, with an emulator if that is what its program needs.
func (x *Executor) start(ctx context.Context, c *container, stdio sandbox.Stdio) (*sandbox.Process, error) {
	x.setUp()
	x.waitGone()
	p, err := x.startConnected(ctx, c, stdio)
	if err == nil {
		return p, nil
	}
	if err := x.emulate(c, err); err != nil {
		return nil, err
	}
	return x.startConnected(ctx, c, stdio)
}

// startConnected starts c, in the host's network if there is no other way.
func (x *Executor) startConnected(ctx context.Context, c *container, stdio sandbox.Stdio) (*sandbox.Process, error) {
	p, err := x.runner.Start(ctx, c.spec, stdio)
	var none *sandbox.NetworkError
	if !errors.As(err, &none) {
		return p, err
	}
	if !x.shared.Swap(true) && x.Warn != nil {
		x.Warn("processes share the network of this host: " + none.Err.Error())
	}
	c.spec.Network = sandbox.NetworkHost
	if err := errors.Join(
		os.WriteFile(c.tmp.Join("resolv.conf"), resolvConf(c.spec.Network), 0o644),
		os.WriteFile(c.tmp.Join("hosts"), c.hostsFile(), 0o644),
	); err != nil {
		return nil, err
	}
	return x.runner.Start(ctx, c.spec, stdio)
}

// hostsFile returns the /etc/hosts of c.
func (c *container) hostsFile() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n", c.spec.Hostname)
	b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, h := range c.Hosts {
		ip := h.IP
		if ip == llb.HostGateway {
			ip = hostGateway(c.spec.Network)
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, h.Name)
	}
	return []byte(b.String())
}

// hostGateway returns the address by which a process reaches this host.
func hostGateway(n sandbox.Network) string {
	if n == sandbox.NetworkHost {
		return "127.0.0.1"
	}
	return uplink.Gateway4.String()
}

func hostResolvConf() string {
	b, _ := os.ReadFile("/etc/resolv.conf") // without it there is a resolver on this host, or none
	return string(b)
}

// resolvConf returns the resolver configuration for a process: the host's, with the gateway in place of
// the name servers where the host's are not within reach.
func resolvConf(n sandbox.Network) []byte {
	switch n {
	case sandbox.NetworkNone:
		return nil
	case sandbox.NetworkHost:
		return []byte(hostResolvConf())
	}
	return []byte(withNameserver(hostResolvConf(), uplink.Gateway4))
}

// withNameserver returns conf with one name server.
func withNameserver(conf string, server netip.Addr) string {
	out := "nameserver " + server.String() + "\n"
	for line := range strings.Lines(conf) {
		switch keyword(line) {
		case "search", "domain", "options", "sortlist":
			out += strings.TrimRight(line, "\n") + "\n"
		}
	}
	return out
}

// resolvers returns the name servers of conf; without any, resolv.conf(5) says, there is one on this host.
func resolvers(conf string) (list []netip.AddrPort) {
	for line := range strings.Lines(conf) {
		if keyword(line) != "nameserver" {
			continue
		}
		if fields := strings.Fields(line); len(fields) > 1 {
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				list = append(list, netip.AddrPortFrom(a, 53))
			}
		}
	}
	if len(list) == 0 {
		list = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return list
}

// keyword returns the first word of a line of resolv.conf; a comment has one that means nothing.
func keyword(line string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	word, _, _ = strings.Cut(word, "\t")
	return word
}
