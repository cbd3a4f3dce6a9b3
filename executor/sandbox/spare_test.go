package sandbox_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// startPrepared runs spec in a sandbox that was prepared, and returns its output.
func startPrepared(t *testing.T, r *sandbox.Runner, spec sandbox.Spec) string {
	t.Helper()
	r.Prepare(spec.Space())
	var out bytes.Buffer
	status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out, Err: &out})
	if err != nil || status.Code != 0 {
		t.Fatalf("status %+v, error %v\n%s", status, err, out.String())
	}
	return out.String()
}

// mountNamespaces returns those that threads or descriptors of this process hold.
func mountNamespaces(t *testing.T) map[string]bool {
	t.Helper()
	held := map[string]bool{}
	for _, pattern := range []string{"/proc/self/task/*/ns/mnt", "/proc/self/fd/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if to, err := os.Readlink(name); err == nil && strings.HasPrefix(to, "mnt:") {
				held[to] = true
			}
		}
	}
	return held
}

// What a process sees does not depend on when its namespaces were made.
func TestPreparedIsLikeAnyOther(t *testing.T) {
	ids := regexp.MustCompile(`(?m)^\d+ \d+ \d+:\d+ | (upperdir|workdir|lowerdir)=[^ ]*|,(upperdir|workdir|lowerdir)[^, ]*`)
	const script = `cat /proc/self/mountinfo; hostname; ls -lR /dev | grep -v ' pts$' | sed 's/ [A-Z][a-z][a-z]  *[0-9]* .* / /'
		cat /proc/net/dev | cut -d: -f1 | sort; ls -a / /sys; df -k /dev/shm | tail -n 1; umask; id; pwd; cat /proc/cmdline > /dev/null`
	for _, network := range []sandbox.Network{sandbox.NetworkHost, sandbox.NetworkNone, sandbox.NetworkDefault} {
		t.Run(string(network), func(t *testing.T) {
			var r sandbox.Runner
			defer r.Close()
			var outputs [2]string
			for i := range outputs {
				spec := newSpec(t, "sh", "-c", script)
				spec.Network, spec.Hostname, spec.ShmSize = network, "told-late", 1<<20
				spec.Mounts = append(spec.Mounts, sandbox.Mount{Type: sandbox.MountTmpfs, Target: "/mem", Size: 1 << 20})
				if i == 0 {
					outputs[i] = run(t, spec)
				} else {
					outputs[i] = startPrepared(t, &r, spec)
				}
				outputs[i] = ids.ReplaceAllString(outputs[i], "")
			}
			if outputs[0] != outputs[1] {
				t.Errorf("made for it:\n%s\nprepared:\n%s", outputs[0], outputs[1])
			}
			if !strings.Contains(outputs[1], "told-late") || !strings.Contains(outputs[1], "1024") {
				t.Errorf("the output lacks what the plan says:\n%s", outputs[1])
			}
		})
	}
}

// A sandbox that was prepared for other plans is not taken.
func TestPreparedForOthers(t *testing.T) {
	spec := newSpec(t, "sh", "-c", "readlink /proc/self/ns/net; df -k /dev/shm | tail -n 1 | awk '{print $2}'; awk '$5 == \"/sys\" { print substr($6, 1, 2) }' /proc/self/mountinfo")
	spec.Network, spec.ShmSize = sandbox.NetworkNone, 2<<20
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []sandbox.Space{
		{Network: sandbox.NetworkHost, ShmSize: spec.ShmSize},
		{Network: sandbox.NetworkNone, ShmSize: 1 << 20},
		{Network: sandbox.NetworkNone, ShmSize: spec.ShmSize, Privileged: true},
	} {
		var r sandbox.Runner
		r.Prepare(other)
		spec := newRoot(t, spec)
		var out bytes.Buffer
		status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out})
		r.Close()
		if err != nil || status.Code != 0 {
			t.Fatal(status, err)
		}
		if lines := strings.Fields(out.String()); len(lines) != 3 || lines[0] == ours || lines[1] != "2048" || lines[2] != "ro" {
			t.Errorf("with %+v prepared the sandbox has %v", other, lines)
		}
	}
}

// newRoot returns spec with an upper directory that was never used.
func newRoot(t *testing.T, spec sandbox.Spec) sandbox.Spec {
	t.Helper()
	fresh := newSpec(t)
	fresh.Args, fresh.Network, fresh.ShmSize = spec.Args, spec.Network, spec.ShmSize
	return fresh
}

// What is prepared ends with the Runner, taken or not, and what is taken leaves nothing behind when Wait returns.
func TestPreparedLeavesNothing(t *testing.T) {
	spec := newSpec(t, "true")
	spec.Network = sandbox.NetworkNone
	before := mountNamespaces(t)
	var r sandbox.Runner
	for range 100 { // more than are of use
		r.Prepare(spec.Space())
	}
	p, err := r.Start(t.Context(), spec, sandbox.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	ended, err := p.Ended()
	if err != nil || ended.Code != 0 {
		t.Error(ended, err)
	}
	if status, err := p.Wait(); status != ended || err != nil {
		t.Errorf("Wait says %v and %v, Ended said %v", status, err, ended)
	}
	r.Close()
	r.Prepare(spec.Space()) // is too late
	home, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for ns := range mountNamespaces(t) {
		if !before[ns] && ns != home {
			t.Errorf("%s is left", ns)
		}
	}
}

// A sandbox that cannot be set up leaves as little.
func TestFailedLeavesNothing(t *testing.T) {
	var r sandbox.Runner
	defer r.Close()
	before := mountNamespaces(t)
	for range 50 {
		spec := newSpec(t, "true")
		spec.Mounts = append(spec.Mounts, bind(spec.Root.Target+"/missing", "/missing", false))
		r.Prepare(spec.Space())
		if _, err := r.Start(t.Context(), spec, sandbox.Stdio{}); err == nil {
			t.Fatal("started")
		}
		for ns := range mountNamespaces(t) {
			if !before[ns] {
				t.Fatalf("%s is left", ns)
			}
		}
	}
}

// What a process has mounted itself is gone when it has ended: a disk in a file of the layer is written to until then.
func TestEndedHasUnmounted(t *testing.T) {
	before := mountNamespaces(t)
	spec := newSpec(t, "sh", "-c", "mkdir /disk && mount -t tmpfs none /disk")
	spec.Privileged, spec.Caps = true, sandbox.AllCaps()
	p, err := sandbox.Start(t.Context(), spec, sandbox.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	for ns := range mountNamespaces(t) { // what nobody holds ends with the process
		if !before[ns] {
			t.Errorf("%s is held while the process runs", ns)
		}
	}
	if status, err := p.Wait(); err != nil || status.Code != 0 {
		t.Error(status, err)
	}
}
