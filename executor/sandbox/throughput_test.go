package sandbox_test

import (
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// BenchmarkNetwork copies between a process in a sandbox and a server outside, by each network that reaches one.
// The server is at an address of this benchmark's own network namespace.
func BenchmarkNetwork(b *testing.B) {
	if os.Getenv(networkVariable) == "" {
		inTestNetwork(b, "-test.run=^$", "-test.bench=^BenchmarkNetwork$", "-test.benchtime=1x", "-test.count=3")
		return
	}
	makeTestNetwork(b)
	const size = 2 << 30
	for _, network := range []sandbox.Network{sandbox.NetworkHost, sandbox.NetworkDefault} {
		for verb, send := range map[string]bool{"up": false, "down": true} {
			b.Run(string(network)+"/"+verb, func(b *testing.B) {
				port := listen(b, "tcp", hostIP4+":0", func(c net.Conn) { transfer(c, send, strconv.Itoa(size)) })
				b.SetBytes(size)
				for b.Loop() {
					spec := client(b, verb, hostIP4+":"+port, strconv.Itoa(size))
					spec.Network = network
					run(b, spec)
				}
			})
		}
	}
}
