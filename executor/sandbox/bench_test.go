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

	"github.com/seed0570efb0/build/executor/sandbox"
)

// BenchmarkRun runs true in a sandbox, beside util-linux' unshare, which does much less for it, and crun.
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
		command(b, "unshare", "-Urmpf", "--mount-proc", "/bin/busybox", "true")
	})
	b.Run("crun", func(b *testing.B) {
		dir := bundle(b)
		command(b, "crun", "--root="+dir+"/state", "--cgroup-manager=disabled", "run", "--bundle="+dir, "bench")
	})
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
