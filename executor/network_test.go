package executor

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox/uplink"
)

func TestResolvConf(t *testing.T) {
	const stub = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch\tlan example.org\n"
	addr := netip.MustParseAddrPort
	for _, c := range []struct {
		name, conf, inside string
		resolvers          []netip.AddrPort
	}{
		{"stub", stub, "nameserver 192.0.0.1\noptions edns0 trust-ad\nsearch\tlan example.org\n", []netip.AddrPort{addr("127.0.0.53:53")}},
		{"several", "nameserver 10.0.0.1 \n nameserver\tfe80::1%eth0\nnameserver nonsense\n;nameserver 10.0.0.2\nnameserver", "nameserver 192.0.0.1\n",
			[]netip.AddrPort{addr("10.0.0.1:53"), addr("[fe80::1%eth0]:53")}},
		{"missing", "", "nameserver 192.0.0.1\n", []netip.AddrPort{addr("127.0.0.1:53")}},
		{"no end of line", "search lan", "nameserver 192.0.0.1\nsearch lan\n", []netip.AddrPort{addr("127.0.0.1:53")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := withNameserver(c.conf, uplink.Gateway4); got != c.inside {
				t.Errorf("inside:\n%s", got)
			}
			if got := resolvers(c.conf); !reflect.DeepEqual(got, c.resolvers) {
				t.Errorf("resolvers %v", got)
			}
		})
	}
}
