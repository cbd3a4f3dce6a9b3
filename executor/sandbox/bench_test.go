package sandbox_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// BenchmarkRun runs true in one sandbox after the other, as the steps of a build do: while one runs, the next is prepared. It measures
// until nothing is left of each, and until the process has ended, which is when a build goes on with what it has made. Beside it are
// util-linux' unshare, which does much less for it, and crun.
func BenchmarkRun(b *testing.B) {
	perNetwork(b, func(b *testing.B, spec sandbox.Spec, renew func(*sandbox.Spec)) {
		var runner sandbox.Runner
		defer runner.Close()
		var ended time.Duration
		for b.Loop() {
			b.StopTimer()
			renew(&spec)
			b.StartTimer()
			began := time.Now()
			p, err := runner.Start(b.Context(), spec, sandbox.Stdio{})
			if err != nil {
				b.Fatal(err)
			}
			runner.Prepare(spec.Space())
			p.Ended()
			ended += time.Since(began)
			succeed(b, p)
		}
		b.ReportMetric(float64(ended)/float64(b.N), "ended-ns/op")
	})
	b.Run("unshare", func(b *testing.B) {
		command(b, "unshare", "-Urmpf", "--mount-proc", "/bin/busybox", "true")
	})
	b.Run("crun", func(b *testing.B) {
		dir := bundle(b)
		command(b, "crun", "--root="+dir+"/state", "--cgroup-manager=disabled", "run", "--bundle="+dir, "bench")
	})
}

// BenchmarkFirstRun runs true in sandboxes that have none before and none after them.
func BenchmarkFirstRun(b *testing.B) {
	perNetwork(b, func(b *testing.B, spec sandbox.Spec, renew func(*sandbox.Spec)) {
		for b.Loop() {
			b.StopTimer()
			renew(&spec)
			b.StartTimer()
			p, err := sandbox.Start(b.Context(), spec, sandbox.Stdio{})
			if err != nil {
				b.Fatal(err)
			}
			succeed(b, p)
		}
	})
}

// perNetwork runs f for each network, with a plan that renew gives an upper directory that was never used. Beside the time on
// the clock it reports that of the processors, without that of the kernel's own threads.
func perNetwork(b *testing.B, f func(b *testing.B, spec sandbox.Spec, renew func(*sandbox.Spec))) {
	for _, network := range []sandbox.Network{sandbox.NetworkHost, sandbox.NetworkNone, sandbox.NetworkDefault} {
		b.Run("network="+string(network), func(b *testing.B) {
			spec := newSpec(b, "true")
			spec.Network = network
			for _, d := range []string{"proc", "sys", "dev"} { // an image has them
				if err := os.Mkdir(filepath.Join(spec.Root.Lower[0], d), 0o755); err != nil {
					b.Fatal(err)
				}
			}
			dir, n := b.TempDir(), 0
			before := cpuTime(b)
			f(b, spec, func(spec *sandbox.Spec) {
				n++
				spec.Root.Upper = filepath.Join(dir, "upper"+strconv.Itoa(n))
				spec.Root.Work = filepath.Join(dir, "work"+strconv.Itoa(n))
				for _, d := range []string{spec.Root.Upper, spec.Root.Work} {
					if err := os.Mkdir(d, 0o755); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(cpuTime(b)-before)/float64(n), "cpu-ns/op")
		})
	}
}

// succeed waits for a process that must.
func succeed(b *testing.B, p *sandbox.Process) {
	if status, err := p.Wait(); err != nil || status.Code != 0 {
		b.Fatal(status, err)
	}
}

// cpuTime returns what this process and its children have used of the processors, in ns.
func cpuTime(b *testing.B) (ns int64) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		ns += u.Utime.Nano() + u.Stime.Nano()
	}
	return ns
}

// command runs a program again and again, which must be there and succeed.
func command(b *testing.B, args ...string) {
	for b.Loop() {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Skip(err, string(out))
		}
	}
}

// bundle makes an OCI bundle like newSpec's for other runtimes, without what takes control groups.
func bundle(b *testing.B) string {
	dir := b.TempDir()
	spec := newSpec(b)
	for _, d := range []string{"proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(spec.Root.Lower[0], d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if out, err := exec.Command("crun", "spec", "--rootless", "--bundle="+dir).CombinedOutput(); err != nil {
		b.Skip(err, string(out))
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		b.Fatal(err)
	}
	config["root"] = map[string]any{"path": spec.Root.Lower[0]}
	process := config["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"true"}, false
	drop := func(list any, field, word string) any {
		return slices.DeleteFunc(list.([]any), func(e any) bool {
			text, _ := e.(map[string]any)[field].(string)
			return strings.Contains(text, word)
		})
	}
	linux := config["linux"].(map[string]any)
	linux["namespaces"] = drop(linux["namespaces"], "type", "cgroup")
	delete(linux, "resources")
	config["mounts"] = drop(config["mounts"], "destination", "cgroup")
	if text, err = json.Marshal(config); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}
