package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/executor/sandbox"
)

func TestNetworkDefault(t *testing.T) {
	if os.Getenv(networkVariable) == "" {
		inTestNetwork(t, "-test.v", "-test.run=^TestNetworkDefault$")
		return
	}
	makeTestNetwork(t)
	for name, test := range map[string]func(*testing.T){
		"tcp":              testTCP,
		"tcp both ways":    testTransfer,
		"tcp reset":        testReset,
		"udp":              testUDP,
		"dns":              testDNS,
		"ping":             testPing,
		"host's own":       testHostIsOutOfReach,
		"host gateway":     testHostGateway,
		"abstract sockets": testAbstractSockets,
		"parallel ports":   testPorts,
		"reuse":            testReuse,
		"cancel":           testCancel,
		"inside":           testInside,
	} {
		t.Run(name, test)
	}
}

func testTCP(t *testing.T) {
	for _, ip := range []string{hostIP4, hostIP6} {
		port := listen(t, "tcp", net.JoinHostPort(ip, "0"), echo)
		expect(t, client(t, "tcp", net.JoinHostPort(ip, port), "hello"), "hello\n")
	}
	// Nobody listens.
	_, stderr, status, err := try(client(t, "tcp", hostIP4+":1", "hello"))
	if err != nil || status.Code != 1 || !strings.Contains(stderr, "connection refused") {
		t.Errorf("got %+v, %v, %s", status, err, stderr)
	}
}

func testTransfer(t *testing.T) {
	const size = "50000001"
	for verb, send := range map[string]bool{"up": false, "down": true} {
		port := listen(t, "tcp", hostIP4+":0", func(c net.Conn) { transfer(c, send, size) })
		expect(t, client(t, verb, hostIP4+":"+port, size), size+"\n")
	}
}

// A connection that broke must not look like one that ended.
func testReset(t *testing.T) {
	port := listen(t, "tcp", hostIP4+":0", func(c net.Conn) {
		io.WriteString(c, "part")
		io.ReadAll(c)
		c.(*net.TCPConn).SetLinger(0)
	})
	_, stderr, status, err := try(client(t, "tcp", hostIP4+":"+port, "x"))
	if err != nil || status.Code != 1 || !strings.Contains(stderr, "connection reset") {
		t.Errorf("got %+v, %v, %s", status, err, stderr)
	}
}

func testUDP(t *testing.T) {
	for _, ip := range []string{hostIP4, hostIP6} {
		server := echoUDP(t, net.JoinHostPort(ip, "0"), func(b []byte) []byte { return b })
		expect(t, client(t, "udp", server.String(), "hello"), "hello\n")
		long := strings.Repeat("x", 9000)
		expect(t, client(t, "udp", server.String(), long), long+"\n")
	}
}

// testDNS has a resolver on the loopback interface, where systemd-resolved is; the one before it is out of order.
func testDNS(t *testing.T) {
	answer := func(q []byte) []byte {
		if len(q) < 12 {
			return nil
		}
		end := 12 + bytes.IndexByte(q[12:], 0) + 5
		r := append([]byte{}, q[:end]...)
		copy(r[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
		if q[end-3] == 1 { // A
			r[7] = 1
			r = append(r, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7)
		}
		return r
	}
	server := echoUDP(t, "127.0.0.1:0", answer)
	down := echoUDP(t, "127.0.0.1:0", func([]byte) []byte { return nil })
	for name, resolvers := range map[string][]netip.AddrPort{"one": {server}, "two": {down, server}} {
		t.Run(name, func(t *testing.T) {
			r := &sandbox.Runner{Resolvers: resolvers}
			defer r.Close()
			var out bytes.Buffer
			status, err := r.Run(t.Context(), client(t, "lookup", "name.example"), sandbox.Stdio{Out: &out, Err: &out})
			if err != nil || status.Code != 0 || out.String() != "[203.0.113.7]\n" {
				t.Errorf("got %+v, %v, %s", status, err, out.String())
			}
		})
	}
}

func testPing(t *testing.T) {
	for _, ip := range []string{hostIP4, hostIP6, "192.0.0.1"} {
		out := run(t, defaultNet(sh(t, "busybox ping -c 3 -i 0.1 -W 5 "+ip)))
		if strings.Count(out, " bytes from "+ip) < 2 { // a busy host may drop one
			t.Error(out)
		}
	}
	out, _, status, _ := try(defaultNet(sh(t, "busybox ping -c 1 -W 1 198.51.100.77")))
	if status.Code == 0 {
		t.Errorf("somebody answers for a host that is not there:\n%s", out)
	}
}

func testHostIsOutOfReach(t *testing.T) {
	port := listen(t, "tcp", ":0", echo) // on all addresses
	for _, host := range []string{"127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0", "[fd62:7569:6c64::1]", metadataIP4, "[::ffff:127.0.0.1]", "[::127.0.0.1]"} {
		out, stderr, status, err := try(client(t, "tcp", host+":"+port, "hello"))
		if err != nil || status.Code != 1 {
			t.Errorf("%s: got %+v, %v, %s%s", host, status, err, out, stderr)
		}
	}
	// As from a bridge of Docker's.
	expect(t, client(t, "tcp", hostIP4+":"+port, "hello"), "hello\n")
}

// testHostGateway talks to the gateway, which is this host by its own address.
func testHostGateway(t *testing.T) {
	const gateway = "192.0.0.1:"
	expect(t, client(t, "tcp", gateway+listen(t, "tcp", hostIP4+":0", echo), "hello"), "hello\n")
	server := echoUDP(t, hostIP4+":0", func(b []byte) []byte { return b })
	expect(t, client(t, "udp", gateway+strconv.Itoa(int(server.Port())), "hello"), "hello\n")
	loopback := listen(t, "tcp", "127.0.0.1:0", echo)
	if out, stderr, status, err := try(client(t, "tcp", gateway+loopback, "hello")); err != nil || status.Code != 1 {
		t.Errorf("the loopback: got %+v, %v, %s%s", status, err, out, stderr)
	}
}

func testAbstractSockets(t *testing.T) {
	listen(t, "unix", "@sandbox-test", echo)
	for network, visible := range map[sandbox.Network]bool{sandbox.NetworkDefault: false, sandbox.NetworkNone: false, sandbox.NetworkHost: true} {
		spec := client(t, "unix", "@sandbox-test", "hello")
		spec.Network = network
		if out, stderr, status, err := try(spec); err != nil || (status.Code == 0) != visible {
			t.Errorf("%s: got %+v, %v, %s%s", network, status, err, out, stderr)
		}
	}
}

// testPorts has processes serve the same port at the same time.
func testPorts(t *testing.T) {
	const n = 4
	var r sandbox.Runner
	defer r.Close()
	var came atomic.Int32
	group, ctx := errgroup.WithContext(t.Context()) // who cannot serve it does not come
	all := make(chan struct{})
	port := listen(t, "tcp", hostIP4+":0", func(net.Conn) {
		if came.Add(1) == n {
			close(all)
		}
		select {
		case <-all:
		case <-ctx.Done():
		}
	})
	for range n {
		spec := client(t, "own", "0.0.0.0:8080", hostIP4+":"+port)
		group.Go(func() error {
			var out bytes.Buffer
			status, err := r.Run(ctx, spec, sandbox.Stdio{Out: &out, Err: &out})
			if err == nil && status.Code != 0 {
				err = fmt.Errorf("status %+v: %s", status, out.String())
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// testReuse: a namespace serves the next process as well, but not after something was sent in it.
func testReuse(t *testing.T) {
	var r sandbox.Runner
	defer r.Close()
	// begin returns the namespace that a process finds, and how much was sent in it before.
	begin := func(script string) (namespace, sent string) {
		spec := client(t)
		spec.Args = []string{"sh", "-c", "readlink /proc/self/ns/net; busybox grep -E '^(Ip|Tcp):' /proc/net/snmp;" + script}
		var out bytes.Buffer
		status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out, Err: &out})
		if err != nil || status.Code != 0 {
			t.Fatal(status, err, out.String())
		}
		namespace, sent, _ = strings.Cut(out.String(), "\n")
		return namespace, sent
	}
	first, nothing := begin("true")
	if second, _ := begin("exec >&-; /client own 127.0.0.1:80"); second != first {
		t.Errorf("%q, then %q", first, second)
	}
	if _, sent := begin("exec >&-; busybox ping -c 1 -W 5 " + hostIP4); sent != nothing {
		t.Errorf("the ports of an earlier process may be taken:\n%s", sent)
	}
	if _, sent := begin("true"); sent != nothing {
		t.Errorf("what an earlier process sent is not forgotten:\n%s", sent)
	}
}

// testCancel: what serves a network ends with it.
func testCancel(t *testing.T) {
	port := listen(t, "tcp", hostIP4+":0", echo)
	var r sandbox.Runner
	ctx, cancel := context.WithCancelCause(t.Context())
	spec := defaultNet(sh(t, "(echo ready; sleep 1000) | busybox nc "+hostIP4+" "+port))
	p := startReady(ctx, t, &r, spec) // which comes through the echo
	cause := errors.New("no longer wanted")
	cancel(cause)
	if _, err := p.Wait(); !errors.Is(err, cause) {
		t.Error(err)
	}
	if _, err := r.Run(t.Context(), defaultNet(sh(t, "true")), sandbox.Stdio{}); err != nil {
		t.Error(err)
	}
	if served() == "" || namespaces() == 0 {
		t.Error("a network that may be used again is not seen")
	}
	r.Close()
	if left, n := served(), namespaces(); left != "" || n > 0 {
		t.Errorf("left: %d namespaces, and\n%s", n, left)
	}
}

// served returns the stack of a goroutine that is at work for a network, "" if there is none. That the kernel takes
// its time to close the packet socket is nothing that a Runner waits for.
func served() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		running, _, _ := strings.Cut(stack, "\ncreated by ")
		if strings.Contains(running, "\ngvisor.dev/") || strings.Contains(running, "/sandbox/uplink.") && !strings.Contains(running, "(*Gateway).Close") {
			return stack
		}
	}
	return ""
}

// namespaces counts the descriptors that keep a network namespace.
func namespaces() (n int) {
	files, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range files {
		if to, _ := os.Readlink(f); strings.HasPrefix(to, "net:") || strings.HasSuffix(to, "/net/snmp") {
			n++
		}
	}
	return n
}

func testInside(t *testing.T) {
	out := run(t, defaultNet(sh(t, "ip -o addr; ip route; ip -6 route; ls /sys/class/net")))
	for _, want := range []string{"127.0.0.1/8", "192.0.0.2/29", "fd62:7569:6c64::2/64", "default via 192.0.0.1 dev eth0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if _, stderr, status, _ := try(defaultNet(sh(t, "ip addr add 10.1.1.1/8 dev eth0"))); status.Code == 0 {
		t.Errorf("the process may change its network: %s", stderr)
	}
}

// TestNoNetworkToGive: a host may forbid network namespaces. The plan can then be carried out with another network.
func TestNoNetworkToGive(t *testing.T) {
	if os.Getenv(networkVariable) == "" {
		mode(t)
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestNoNetworkToGive$")
		cmd.Env = append(os.Environ(), networkVariable+"=1", modeVariable+"=", "TMPDIR="+t.TempDir())
		ids := []syscall.SysProcIDMap{{Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	spec := defaultNet(sh(t, "echo hello"))
	_, _, _, err := try(spec)
	var none *sandbox.NetworkError
	if !errors.As(err, &none) || !errors.Is(err, syscall.ENOSPC) || none.Err.Error() != "new network namespace: no space left on device" {
		t.Fatalf("got %v", err)
	}
	spec.Network = sandbox.NetworkHost
	expect(t, spec, "hello\n")
}

// TestAptGetUpdate uses the real network, with the apt of this host, a Debian.
func TestAptGetUpdate(t *testing.T) {
	if os.Getenv("SANDBOX_TEST_ONLINE") == "" {
		t.Skip("SANDBOX_TEST_ONLINE is not set")
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		t.Skip("this host is no Debian")
	}
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip(err)
	}
	var r sandbox.Runner
	defer r.Close()
	for line := range strings.Lines(string(conf)) {
		if server, ok := strings.CutPrefix(line, "nameserver "); ok {
			r.Resolvers = append(r.Resolvers, netip.AddrPortFrom(netip.MustParseAddr(strings.TrimSpace(server)), 53))
		}
	}
	spec := client(t)
	spec.Args = []string{"sh", "-c", "mkdir -p /tmp/lists/partial /var/cache/apt/archives/partial && apt-get update -o APT::Sandbox::User=root -o Dir::State::Lists=/tmp/lists -o Acquire::Languages=none -o Acquire::Retries=0 -o APT::Update::Error-Mode=any"}
	spec.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, resolv, "nameserver 192.0.0.1\n")
	for _, m := range [][2]string{{"/etc", "/etc"}, {resolv, "/etc/resolv.conf"}, {"/var/lib/dpkg", "/var/lib/dpkg"}} {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: m[0], Target: m[1], ReadOnly: true})
	}
	var out bytes.Buffer
	status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out, Err: &out})
	if err != nil || status.Code != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	t.Log(out.String())
}

// A sandbox that may change its network leaves it to no other.
func TestChangedNetworkIsNotUsedAgain(t *testing.T) {
	var r sandbox.Runner
	defer r.Close()
	for _, script := range []string{"ip link set lo down", "ip link show lo | grep -q LOWER_UP"} {
		spec := sh(t, script)
		spec.Network = sandbox.NetworkDefault
		if script == "ip link set lo down" {
			spec.Privileged, spec.Caps = true, sandbox.AllCaps()
		}
		var out bytes.Buffer
		if status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out, Err: &out}); err != nil || status.Code != 0 {
			t.Errorf("%s: status %+v, error %v\n%s", script, status, err, out.String())
		}
	}
}
