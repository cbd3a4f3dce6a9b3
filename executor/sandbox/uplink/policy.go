package uplink

import (
	"net"
	"net/netip"
)

// refused holds what no flow may reach, although this process could.
var refused = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // 0.0.0.0 is the host's loopback to connect
	netip.MustParsePrefix("127.0.0.0/8"),    // services that listen there trust who can reach them
	netip.MustParsePrefix("169.254.0.0/16"), // link-local: where clouds hand out the machine's credentials
	netip.MustParsePrefix("192.0.0.0/29"),   // this very link
	netip.MustParsePrefix("224.0.0.0/3"),    // multicast, broadcast and what has no meaning
	netip.MustParsePrefix("::/96"),          // loopback, unspecified, and IPv4 addresses of old
	netip.MustParsePrefix("::ffff:0:0/96"),  // IPv4 in another form
	netip.MustParsePrefix("64:ff9b::/96"),   // and in a third one, which a translator on the way turns back
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"), // the credentials once more
	netip.MustParsePrefix("fd62:7569:6c64::/64"),
	netip.MustParsePrefix("ff00::/8"),
}

// mayReach reports whether flows may go to a.
//
// As from a container on Docker's bridge, everything is within reach that the host reaches, and the host itself by its
// own addresses. Other than there, link-local addresses are not: a Dockerfile that somebody else wrote should not
// get at the credentials of the machine that builds it.
func mayReach(a netip.Addr) bool {
	for _, p := range refused {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// outward returns where a flow to an address goes, and whether it may. One to the gateway goes to this host, by an
// address of its own: what listens on the loopback alone is out of reach by that name too.
func outward(to netip.AddrPort) (netip.AddrPort, bool) {
	if to.Addr() != Gateway4 {
		return to, mayReach(to.Addr())
	}
	host, ok := hostAddress()
	return netip.AddrPortFrom(host, to.Port()), ok
}

// hostAddress returns the address that others know this host by: that of the way out, or else any.
func hostAddress() (netip.Addr, bool) {
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil { // which sends nothing
		defer c.Close()
		if a := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); mayReach(a) {
			return a, true
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && mayReach(p.Addr()) {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func isResolver(to netip.AddrPort) bool {
	return to.Port() == 53 && (to.Addr() == Gateway4 || to.Addr() == Gateway6)
}
