package uplink

import (
	"net/netip"
	"testing"
)

func TestMayReach(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "10.0.0.1": true, "172.17.0.1": true, "192.168.1.1": true, "100.64.0.1": true, "2001:db8::1": true, "fd00::1": true,
		"0.0.0.0": false, "127.0.0.1": false, "127.0.0.53": false, "127.255.255.255": false, "169.254.169.254": false, "169.254.170.2": false,
		"192.0.0.1": false, "224.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:8.8.8.8": false, "64:ff9b::7f00:1": false,
		"fe80::1": false, "fd00:ec2::254": false, "fd62:7569:6c64::1": false, "ff02::1": false,
	} {
		if got := mayReach(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

func TestCounter(t *testing.T) {
	const text = "Ip: Forwarding OutRequests\nIp: 1 0\nIcmp: InMsgs\nIcmp: 3\nTcp: RtoMin OutSegs InErrs\nTcp: 200 17 0\n"
	for _, c := range [][3]string{
		{"Ip:", "OutRequests", "0"}, {"Tcp:", "OutSegs", "17"}, {"Tcp:", "RtoMin", "200"}, {"Tcp:", "Missing", ""}, {"Udp:", "OutSegs", ""},
	} {
		if got := counter(text, c[0], c[1]); got != c[2] {
			t.Errorf("%s %s is %q", c[0], c[1], got)
		}
	}
}

// What comes from a sandbox is hostile.
func FuzzEchoRequest(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x01\x00\x00\xc0\x00\x00\x02\x08\x08\x08\x08\x08\x00\x00\x00\x12\x34\x00\x01"))
	f.Add([]byte("\x60\x00\x00\x00\x00\x08\x3a\x40" + "0123456789abcdef" + "fedcba9876543210" + "\x80\x00\x00\x00\x12\x34\x00\x01"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if to, message, ok := echoRequest(packet); ok && (!to.IsValid() || len(message) < 8) {
			t.Errorf("%v, %d bytes", to, len(message))
		}
	})
}
