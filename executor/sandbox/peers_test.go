package sandbox_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
)

// The tests of the network run in a network namespace of their own, which stands for the host: nothing of them
// leaves the machine. It has these addresses on an interface that leads nowhere.
const (
	hostIP4     = "198.51.100.1"
	hostIP6     = "2001:db8::1"
	metadataIP4 = "169.254.169.254"
)

// networkVariable tells the test program that it runs in that namespace.
const networkVariable = "SANDBOX_TEST_NETWORK"

// inTestNetwork runs this program once more, in a new network namespace.
func inTestNetwork(t testing.TB, args ...string) {
	mode(t)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), networkVariable+"=1", "TMPDIR="+t.TempDir())
	if _, inside := userns.Inside(); inside {
		cmd.Env = append(cmd.Env, modeVariable+"=") // it is root here
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func makeTestNetwork(t testing.TB) {
	for _, args := range []string{
		"link set lo up",
		"link add test0 type veth peer name test1",
		"link set test1 up",
		"link set test0 up",
		"addr add " + hostIP4 + "/24 dev test0",
		"addr add " + hostIP6 + "/64 dev test0 nodad",
		"addr add " + metadataIP4 + "/32 dev test0",
		"route add default dev test0",
		"-6 route add default dev test0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", args, err, out)
		}
	}
	os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0)
}

// listen starts a server that calls serve for each connection.
func listen(t testing.TB, network, address string, serve func(net.Conn)) (port string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var served errgroup.Group
	served.Go(func() error {
		for {
			c, err := l.Accept()
			if err != nil {
				return nil
			}
			served.Go(func() error {
				defer c.Close()
				serve(c)
				return nil
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	if network == "unix" {
		return ""
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func echo(c net.Conn) { io.Copy(c, c) }

// echoUDP starts a server that sends packets back.
func echoUDP(t *testing.T, address string, reply func([]byte) []byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := reply(buf[:n]); b != nil {
				c.WriteTo(b, from)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// client returns the plan of a process with the default network: this program as a client, see runClient.
func client(t testing.TB, args ...string) sandbox.Spec {
	t.Helper()
	spec := newSpec(t, append([]string{"/client"}, args...)...)
	spec.Network = sandbox.NetworkDefault
	spec.Env = append(spec.Env, clientVariable+"=1", "GODEBUG=netdns=go", "GORACE=atexit_sleep_ms=0")
	lower := spec.Root.Lower[0]
	copyFile(t, "/proc/self/exe", lower+"/client")
	write(t, lower+"/etc/resolv.conf", "nameserver 192.0.0.1\n")
	for _, dir := range []string{"/usr", "/lib", "/lib64"} { // a program built with -race needs the C library
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			spec.Mounts = append(spec.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: real, Target: dir, ReadOnly: true})
		}
	}
	return spec
}

const clientVariable = "SANDBOX_TEST_CLIENT"

// runClient is what the test program does inside a sandbox.
func runClient(args []string) error {
	switch verb := args[0]; verb {
	case "tcp", "udp", "unix": // ADDRESS TEXT: sends the text and prints what comes back
		c, err := net.Dial(verb, args[1])
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, args[2]); err != nil {
			return err
		}
		if t, ok := c.(*net.TCPConn); ok {
			t.CloseWrite()
			b, err := io.ReadAll(c)
			fmt.Printf("%s\n", b)
			return err
		}
		b := make([]byte, 1<<16)
		n, err := c.Read(b)
		fmt.Printf("%s\n", b[:n])
		return err
	case "lookup":
		addrs, err := net.LookupHost(args[1])
		fmt.Println(addrs)
		return err
	case "own": // ADDRESS [MEETING]: serves it and is its own client, when all have come to the meeting
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		defer l.Close()
		if len(args) > 2 {
			m, err := net.Dial("tcp", args[2])
			if err != nil {
				return err
			}
			if _, err := io.ReadAll(m); err != nil {
				return err
			}
		}
		c, err := net.Dial("tcp", args[1])
		if err != nil {
			return err
		}
		return c.Close()
	case "up", "down": // ADDRESS SIZE: copies zeros
		c, err := net.Dial("tcp", args[1])
		if err != nil {
			return err
		}
		defer c.Close()
		n, err := transfer(c, verb == "up", args[2])
		fmt.Println(n)
		return err
	}
	return fmt.Errorf("no verb %q", args[0])
}

// transfer sends or receives size bytes; who receives confirms it with a byte.
func transfer(c net.Conn, send bool, size string) (n int64, err error) {
	var want int64
	fmt.Sscan(size, &want)
	if !send {
		if n, err = io.CopyN(io.Discard, c, want); err == nil {
			_, err = c.Write([]byte{1})
		}
		return n, err
	}
	block := make([]byte, 1<<17)
	for n < want && err == nil {
		var w int
		w, err = c.Write(block[:min(int64(len(block)), want-n)])
		n += int64(w)
	}
	if err == nil {
		_, err = io.ReadFull(c, block[:1])
	}
	return n, err
}

func defaultNet(spec sandbox.Spec) sandbox.Spec {
	spec.Network = sandbox.NetworkDefault
	return spec
}
