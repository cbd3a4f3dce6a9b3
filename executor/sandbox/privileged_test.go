package sandbox_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"golang.org/x/sys/unix"
)

func writeProgram(t testing.TB, spec sandbox.Spec, name, text string) {
	t.Helper()
	file := filepath.Join(spec.Root.Lower[0], name)
	write(t, file, text)
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
}

// setUID returns the plan of an ordinary user who runs a set-user-ID program of root's, which says whether it is root.
func setUID(t *testing.T) sandbox.Spec {
	t.Helper()
	spec := callSpec(t, elf64(unix.SYS_SETUID, 0))
	if err := os.Chmod(spec.Root.Lower[0]+"/call", 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	spec.UID, spec.GID, spec.Groups = 1000, 1000, nil
	spec.OneUID = oneID(t)
	return spec
}

func TestNewPrivileges(t *testing.T) {
	if got := errno(t, setUID(t)); got != unix.EPERM {
		t.Errorf("with no_new_privs: got %v", got)
	}
	spec := setUID(t)
	spec.NewPrivileges = true
	if spec.OneUID {
		if _, _, _, err := try(spec); err == nil || !strings.Contains(err.Error(), "no effect") {
			t.Errorf("got %v", err)
		}
		return
	}
	if got := errno(t, spec); got != 0 {
		t.Errorf("without: got %v", got)
	}
}

// Without no_new_privs all else is as it was: the filter, and the bound of what exec can give.
func TestNewPrivilegesAreBounded(t *testing.T) {
	if oneID(t) {
		return // there are none
	}
	spec := newSpec(t, "cat", "/proc/self/status")
	spec.NewPrivileges = true
	out := run(t, spec)
	for _, want := range []string{"NoNewPrivs:\t0", "Seccomp:\t2", "CapBnd:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "CapInh:\t0000000000000000"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	spec = callSpec(t, elf64(unix.SYS_KEYCTL, 0, 0))
	spec.NewPrivileges = true
	if got := errno(t, spec); got != unix.EPERM {
		t.Errorf("keyctl: got %v", got)
	}
}

func TestPrivileged(t *testing.T) {
	spec := sh(t, `grep -q '/proc/sys' /proc/self/mountinfo && echo protected
mount -t tmpfs none /etc && echo mounted
echo $(grep -c ' /sys .*rw.* - sysfs' /proc/self/mountinfo)
set -- $(grep Cap /proc/self/status); [ $4 = $6 ] && [ $6 = $8 ] && [ $8 = ${10} ] && [ $2 = ${10} ] && echo all alike`)
	spec.Privileged, spec.Caps, spec.Seccomp = true, sandbox.AllCaps(), seccomp.Unconfined
	spec.OneUID = oneID(t)
	for _, uid := range []uint32{0, 1000} {
		spec.UID = uid
		spec.Root.Upper, spec.Root.Work = t.TempDir(), t.TempDir()
		expect(t, spec, "mounted\n1\nall alike\n")
	}
}

func TestReadOnlyRoot(t *testing.T) {
	spec := sh(t, "echo x > /x; echo x > /etc/old; echo x > /m/x && echo x > /dev/shm/x && cat /m/x")
	spec.ReadOnly = true
	spec.Mounts = []sandbox.Mount{{Type: sandbox.MountTmpfs, Target: "/m"}}
	out, stderr, status, err := try(spec)
	if out != "x\n" || strings.Count(stderr, "Read-only") != 2 || status.Code != 0 || err != nil {
		t.Errorf("got %q, %q, %+v, %v", out, stderr, status, err)
	}
}

func TestTmpfsOptions(t *testing.T) {
	spec := sh(t, "stat -c %a /m /n; for d in m n; do busybox cp /bin/busybox /$d/echo; /$d/echo $d; done")
	spec.Mounts = []sandbox.Mount{{Type: sandbox.MountTmpfs, Target: "/m", Mode: 0o700, NoExec: true}, {Type: sandbox.MountTmpfs, Target: "/n"}}
	expect(t, spec, "700\n1777\nn\n")
}

func TestChangeCaps(t *testing.T) {
	base := []string{"CAP_CHOWN", "CAP_KILL"}
	for _, c := range []struct{ add, drop, want []string }{
		{nil, nil, base},
		{[]string{"sys_admin", "CAP_KILL"}, nil, []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}},
		{nil, []string{"CHOWN"}, []string{"CAP_KILL"}},
		{nil, []string{"all"}, nil},
		{[]string{"net_raw"}, []string{"ALL"}, []string{"CAP_NET_RAW"}},
		{[]string{"ALL"}, nil, sandbox.AllCaps()},
		{[]string{"ALL"}, []string{"BPF"}, slices.DeleteFunc(sandbox.AllCaps(), func(c string) bool { return c == "CAP_BPF" })},
	} {
		if got, err := sandbox.ChangeCaps(base, c.add, c.drop); !slices.Equal(got, c.want) || err != nil {
			t.Errorf("add %v, drop %v: %v, %v", c.add, c.drop, got, err)
		}
	}
	if _, err := sandbox.ChangeCaps(base, []string{"FLY"}, nil); err == nil {
		t.Error("a capability that there is not")
	}
}
