package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// BenchmarkRun runs true in a sandbox, beside util-linux' unshare, which does much less for it.
func BenchmarkRun(b *testing.B) {
	for _, network := range []sandbox.Network{sandbox.NetworkHost, sandbox.NetworkNone, sandbox.NetworkDefault} {
		b.Run("network="+string(network), func(b *testing.B) {
			spec := newSpec(b, "true")
			spec.Network = network
			for _, d := range []string{"proc", "sys", "dev"} { // an image has them
				if err := os.Mkdir(filepath.Join(spec.Root.Lower[0], d), 0o755); err != nil {
					b.Fatal(err)
				}
			}
			var runner sandbox.Runner
			defer runner.Close()
			dir := b.TempDir()
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				spec.Root.Upper = filepath.Join(dir, "upper"+strconv.Itoa(n))
				spec.Root.Work = filepath.Join(dir, "work"+strconv.Itoa(n))
				for _, d := range []string{spec.Root.Upper, spec.Root.Work} {
					if err := os.Mkdir(d, 0o755); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if status, err := runner.Run(b.Context(), spec, sandbox.Stdio{}); err != nil || status.Code != 0 {
					b.Fatal(status, err)
				}
			}
		})
	}
	b.Run("unshare", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("unshare", "-Urmpf", "--mount-proc", "/bin/busybox", "true").Run(); err != nil {
				b.Skip(err)
			}
		}
	})
}
