package sandbox_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"github.com/seed0570efb0/build/internal/userns"
	"golang.org/x/sys/unix"
)

// oneID reports whether users have to be emulated.
func oneID(t testing.TB) bool { return mode(t) == userns.SingleID }

// withInit returns a plan with an init, which is this program.
func withInit(t testing.TB, script string) sandbox.Spec {
	t.Helper()
	spec := sh(t, script)
	spec.Init, spec.OneUID = true, oneID(t)
	spec.Env = append(spec.Env, "GORACE=atexit_sleep_ms=0")
	for _, dir := range []string{"/usr", "/lib", "/lib64"} { // a test program needs the C library, other than a release
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			spec.Mounts = append(spec.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: real, Target: dir, ReadOnly: true})
		}
	}
	return spec
}

func TestInitIsPid1(t *testing.T) {
	out := run(t, withInit(t, "tr '\\0' ' ' < /proc/1/cmdline; [ $$ = 1 ] || echo not 1"))
	if !strings.HasPrefix(out, "build-init ") || !strings.HasSuffix(out, "not 1\n") {
		t.Errorf("got %q", out)
	}
}

// The file of the init is no file of the host: it must be safe even from who may change mounts.
func TestInitCannotBeReplaced(t *testing.T) {
	plain := withInit(t, "echo x > /proc/1/exe")
	privileged := withInit(t, "mount -o remount,bind,rw /proc/1/exe; echo x > /proc/1/exe")
	privileged.Privileged, privileged.Caps, privileged.Seccomp = true, sandbox.AllCaps(), seccomp.Unconfined
	for _, spec := range []sandbox.Spec{plain, privileged} {
		if out, stderr, status, err := try(spec); err != nil || status.Code == 0 {
			t.Errorf("got %q %q %+v %v", out, stderr, status, err)
		}
	}
}

// It has no more privileges than the command, in none of its threads.
func TestInitIsUnprivileged(t *testing.T) {
	spec := withInit(t, "for t in /proc/1/task/*; do grep CapEff $t/status; done | busybox sort -u; grep NoNewPrivs /proc/1/status")
	spec.Caps = []string{"CAP_KILL"}
	expect(t, spec, "CapEff:\t0000000000000020\nNoNewPrivs:\t1\n")
}

func TestInitReapsOrphans(t *testing.T) {
	// The orphan's end is known by the end of its pipe; then its entry goes away as soon as it is reaped.
	expect(t, withInit(t, `pid=$(sh -c 'sleep 0 >&2 & echo $!'); while [ -e /proc/$pid ]; do :; done; echo gone`), "gone\n")
}

func TestInitEndsAsTheCommand(t *testing.T) {
	for script, code := range map[string]int{"exit 3": 3, "kill -9 $$": 137, "kill $$": 143} {
		if _, stderr, status, err := try(withInit(t, script)); err != nil || status.Code != code || stderr != "" {
			t.Errorf("%s: got %+v, %v, %s", script, status, err, stderr)
		}
	}
	for name, code := range map[string]int{"no-such-program": 127, "/etc/passwd": 126, "/garbage": 126} {
		spec := withInit(t, "")
		spec.Args = []string{name}
		writeProgram(t, spec, "garbage", "text")
		var exec *sandbox.ExecError
		if _, _, _, err := try(spec); !errors.As(err, &exec) || exec.ExitCode() != code {
			t.Errorf("%s: got %v, want status %d", name, err, code)
		}
	}
}

// Other than pid 1, the command ends by a signal that it does not handle.
func TestInitPassesSignalsOn(t *testing.T) {
	p, err := sandbox.Start(t.Context(), withInit(t, "sleep 1000"), sandbox.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if status, err := p.Wait(); err != nil || status.Code != 143 {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestInitOnTerminal(t *testing.T) { converse(t, withInit(t, conversation)) }

// The limits are the command's: this program would not start under this one.
func TestInitUnderLimits(t *testing.T) {
	spec := withInit(t, "ulimit -d; ulimit -n")
	spec.Limits.Rlimits = []sandbox.Rlimit{{Name: "data", Soft: 8 << 20, Hard: 8 << 20}, {Name: "nofile", Soft: 50, Hard: 60}}
	expect(t, spec, "8192\n50\n")
}

// A hard limit may be higher than ours, which takes a privilege that the init has not.
func TestInitRaisesLimits(t *testing.T) {
	spec := withInit(t, "ulimit -Hp")
	var ours unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &ours); err != nil {
		t.Fatal(err)
	}
	higher := sandbox.Limits{Rlimits: []sandbox.Rlimit{{Name: "nproc", Soft: ours.Max, Hard: ours.Max + 1}}}
	if _, not := higher.Enforce(); ours.Max == unix.RLIM_INFINITY || len(not) > 0 {
		t.Skipf("hard limits cannot be raised here: %v", not)
	}
	spec.Limits = higher
	expect(t, spec, fmt.Sprintln(ours.Max+1))
}
