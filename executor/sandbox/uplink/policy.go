package uplink

import "net/netip"

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

func isResolver(to netip.AddrPort) bool {
	return to.Port() == 53 && (to.Addr() == Gateway4 || to.Addr() == Gateway6)
}
