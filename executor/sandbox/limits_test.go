package sandbox_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// limited returns spec with those limits that can be kept here; the test is skipped if one cannot.
func limited(t *testing.T, spec sandbox.Spec, l sandbox.Limits) sandbox.Spec {
	t.Helper()
	l, not := l.Enforce()
	if not != nil {
		t.Skipf("needs limits that cannot be kept here: %v", not)
	}
	spec.Limits = l
	return spec
}

// groups returns what matches pattern in the control groups of this process' sandboxes.
func groups(pattern string) (list []string) {
	for _, above := range []string{"", "*/", "*/*/"} { // the version, controllers that are one mount, --cgroup-parent
		found, _ := filepath.Glob("/sys/fs/cgroup/" + above + "build-" + pid() + "-" + pattern)
		list = append(list, found...)
	}
	return list
}

// noGroupLeft checks that no control group of ours is left.
func noGroupLeft(t *testing.T) {
	t.Helper()
	if left := groups("*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func pid() string { p, _ := os.Readlink("/proc/self"); return p }

func TestOutOfMemory(t *testing.T) {
	spec := limited(t, sh(t, "x=$(cat /dev/zero | head -c 100000000 | tr '\\0' x); echo survived"), sandbox.Limits{Memory: 32 << 20})
	applets(t, spec, "head")
	out, _, status, err := try(spec)
	if err != nil || status.Code == 0 || !status.OutOfMemory || status.Usage.Memory < 16<<20 || status.Usage.Memory > 32<<20 {
		t.Errorf("%q %+v %v", out, status, err)
	}
	noGroupLeft(t)
}

func TestPIDsLimit(t *testing.T) {
	spec := limited(t, sh(t, "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo all"), sandbox.Limits{PIDs: 5})
	if out, stderr, status, err := try(spec); err != nil || status.Code == 0 || out != "" {
		t.Errorf("%q %q %+v %v", out, stderr, status, err)
	}
	noGroupLeft(t)
}

// The kernel says of a group how often its processes had to wait because of the quota.
func TestCPULimit(t *testing.T) {
	spec := limited(t, sh(t, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo ready; cat"), sandbox.Limits{CPUQuota: 20_000, CPUPeriod: 100_000})
	applets(t, spec, "[")
	in, end := io.Pipe()
	out, w := io.Pipe()
	p, err := sandbox.Start(t.Context(), spec, sandbox.Stdio{In: in, Out: w})
	if err != nil {
		t.Fatal(err)
	}
	awaitReady(t, out)
	waited := false
	for _, file := range groups("*/cpu.stat") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			times, ok := strings.CutPrefix(line, "nr_throttled ")
			waited = waited || ok && times != "0\n"
		}
	}
	end.Close()
	if status, err := p.Wait(); err != nil || status.Code != 0 || status.Usage.CPU == 0 {
		t.Error(status, err)
	}
	if !waited {
		t.Error("the process never waited for its next period")
	}
	noGroupLeft(t)
}

// Processors and rlimits need no control group.
func TestAffinityAndRlimits(t *testing.T) {
	spec := sh(t, "cat /proc/self/status; ulimit -n; ulimit -Hn")
	l, _ := sandbox.Limits{CPUSet: "0", Rlimits: []sandbox.Rlimit{{Name: "nofile", Soft: 100, Hard: 200}}}.Enforce()
	spec.Limits = l
	out := run(t, spec)
	if !strings.Contains(out, "Cpus_allowed_list:\t0\n") || !strings.HasSuffix(out, "\n100\n200\n") {
		t.Error(out)
	}
	noGroupLeft(t)
}

// What a host does not let us do is said, and the rest done in another way.
func TestEnforceSaysWhatItCannot(t *testing.T) {
	l, not := sandbox.Limits{Memory: 1 << 30, CPUQuota: 150_000, CPUPeriod: 100_000, PIDs: 10, CgroupParent: "/../../nowhere\x00"}.Enforce()
	if l.Memory != 0 || l.PIDs != 0 || l.CPUQuota != 0 || l.CPUSet == "" || len(l.Rlimits) != 1 || len(not) != 3 {
		t.Errorf("%+v %q", l, not)
	}
	spec := sh(t, "exit 0")
	spec.Limits = l
	run(t, spec)
}

func TestShmSize(t *testing.T) {
	spec := sh(t, "stat -fc %b*%S /dev/shm")
	spec.ShmSize = 8 << 20
	if out := strings.TrimSpace(run(t, spec)); out != "2048*4096" {
		t.Error(out)
	}
}

func TestParseLimits(t *testing.T) {
	for text, ok := range map[string]bool{"nofile=1:2": true, "nofile=5": true, "core=-1": true, "nofile=2:1": false, "files=1": false, "nofile": false, "nofile=x": false} {
		if _, err := sandbox.ParseRlimit(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, ok := range map[string]bool{"0": true, "0-3,5": true, "3-1": false, "": false, "a": false, "0-99999": false} {
		if _, err := sandbox.ParseCPUs(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestUsage(t *testing.T) {
	_, _, status, err := try(sh(t, "dd if=/dev/zero of=/dev/null bs=400M count=1 2>&-; true"))
	if err != nil || status.Usage.Memory < 400<<20 || status.Usage.CPU == 0 {
		t.Errorf("%+v %v", status, err)
	}
	_, _, status, err = try(sh(t, "true"))
	if err != nil || status.Usage.Memory != 0 {
		t.Errorf("the memory of this program counts to what it starts: %+v %v", status, err)
	}
}

// A process with limits and a network is handed descriptors for both.
func TestLimitsAndNetwork(t *testing.T) {
	var r sandbox.Runner
	defer r.Close()
	for _, network := range []string{"new", "used before"} {
		spec := limited(t, defaultNet(sh(t, "ip -o addr show dev eth0 && for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo all")), sandbox.Limits{PIDs: 5})
		var out bytes.Buffer
		status, err := r.Run(t.Context(), spec, sandbox.Stdio{Out: &out})
		if text := out.String(); err != nil || status.Code == 0 || !strings.Contains(text, "192.0.0.2") || strings.Contains(text, "all") {
			t.Errorf("%s: %q %+v %v", network, text, status, err)
		}
	}
	noGroupLeft(t)
}
