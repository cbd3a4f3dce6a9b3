package sandbox_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
)

// chrootSpec returns the plan of a chroot that runs a shell script.
func chrootSpec(t testing.TB, script string) sandbox.Spec {
	t.Helper()
	if err := userns.Check(userns.Chroot); err != nil {
		t.Skip(err)
	}
	spec := sh(t, script)
	spec.Root = sandbox.Root{Flat: spec.Root.Lower[0]}
	dev := filepath.Join(spec.Root.Flat, "dev") // a shell puts nothing in the background without /dev/null
	if err := os.Mkdir(dev, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sandbox.FillDev(dev, nil); err != nil {
		t.Fatal(err)
	}
	spec.Chroot, spec.Caps = true, sandbox.ChrootCaps()
	if m, inside := userns.Inside(); inside && m == userns.SingleID {
		spec.Groups = nil
	}
	return spec
}

func TestChrootStatus(t *testing.T) {
	for script, want := range map[string]sandbox.Status{
		"exit 0":      {},
		"exit 3":      {Code: 3},
		"kill -9 $$":  {Code: 137, Signal: 9},
		"kill -15 $$": {Code: 143, Signal: 15},
		"kill -11 $$": {Code: 139, Signal: 11},
	} {
		if _, stderr, status, err := try(chrootSpec(t, script)); err != nil || endOf(status) != want || stderr != "" {
			t.Errorf("%s: got %+v, %v, %q", script, status, err, stderr)
		}
	}
	spec := chrootSpec(t, "")
	spec.Args = []string{"no-such-program"}
	var exec *sandbox.ExecError
	if _, _, _, err := try(spec); !errors.As(err, &exec) || exec.ExitCode() != 127 {
		t.Errorf("got %v", err)
	}
}

func TestChrootIsTheRoot(t *testing.T) {
	spec := chrootSpec(t, `pwd; ls /; cat /etc/old; echo new > /etc/new; readlink -f /../../etc; id -u`)
	spec.Cwd = "/made/here"
	expect(t, spec, "/made/here\nbin\ndev\netc\nmade\nold\n/etc\n0\n")
	if b, err := os.ReadFile(filepath.Join(spec.Root.Flat, "etc/new")); string(b) != "new\n" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// endOf returns how a process ended, without what it used.
func endOf(s sandbox.Status) sandbox.Status { return sandbox.Status{Code: s.Code, Signal: s.Signal} }

// A root process with CAP_SYS_CHROOT leaves a chroot by making another below its working directory.
func TestChrootIsNotLeft(t *testing.T) {
	spec := chrootSpec(t, `mkdir /jail; chroot /jail /bin/true 2>&1; mknod /disk b 8 0 2>&1; exit 0`)
	applets(t, spec, "chroot mknod")
	out := run(t, spec)
	if strings.Count(out, "Operation not permitted") != 2 {
		t.Errorf("got %q", out)
	}
}

// What a step leaves behind ends with it: in the background, in a session of its own, or without a parent.
func TestChrootLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	spec := chrootSpec(t, `
		sleep 1000 &
		setsid sleep 1001 > /dev/null 2>&1 &
		(setsid sh -c 'trap "" TERM HUP INT; sleep 1002; sleep 1003' &)
		echo "$(cat /marker)"`)
	applets(t, spec, "setsid")
	spec.Env = append(spec.Env, "MARKER="+dir)
	write(t, spec.Root.Flat+"/marker", "marked\n")
	expect(t, spec, "marked\n")
	if left := testkit.Processes(marked(dir)); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// marked returns what tells the processes of a plan that has dir as its MARKER.
func marked(dir string) func(proc string) bool {
	return func(proc string) bool { return testkit.ProcHolds(proc+"/environ", "MARKER="+dir) }
}

func TestChrootCancelled(t *testing.T) {
	dir := t.TempDir()
	spec := chrootSpec(t, "(setsid sleep 1000 &); echo ready; sleep 1000")
	applets(t, spec, "setsid")
	spec.Env = append(spec.Env, "MARKER="+dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	p := startReady(ctx, t, new(sandbox.Runner), spec)
	why := errors.New("enough")
	cancel(why)
	if _, err := p.Wait(); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if left := testkit.Processes(marked(dir)); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// The builder is killed: its chroots end as well.
func TestChrootBuilderIsKilled(t *testing.T) {
	if dir := os.Getenv(helperVariable); dir != "" {
		spec := chrootSpec(t, "(sleep 1000 &); echo ready; sleep 1000")
		spec.Env = append(spec.Env, "MARKER="+dir)
		sandbox.Run(t.Context(), spec, sandbox.Stdio{Out: os.Stdout})
		return
	}
	chrootSpec(t, "")
	dir := t.TempDir()
	killHelper(t, dir)
	testkit.AwaitNone(t, marked(dir))
}

func TestChrootSignal(t *testing.T) { signalReachesHandler(t, chrootSpec) }

func TestChrootRefuses(t *testing.T) {
	spec := chrootSpec(t, "true")
	spec.Network = sandbox.NetworkNone
	if _, _, _, err := try(spec); err == nil {
		t.Error("a chroot had a network of its own")
	}
	spec = chrootSpec(t, "true")
	spec.Mounts = []sandbox.Mount{bind("/etc", "/mnt", true)}
	if _, _, _, err := try(spec); err == nil {
		t.Error("a chroot had a mount")
	}
}

func TestFillDev(t *testing.T) {
	dir := t.TempDir()
	if err := sandbox.FillDev(dir, nil); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "null"))
	_, inside := userns.Inside()
	if err != nil || st.Mode().Perm() != 0o666 || st.Mode()&fs.ModeDevice == 0 && userns.Check(userns.Root) == nil && !inside {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

// A copy of a device is for those who may use the host's.
func TestFillDevKeepsRights(t *testing.T) {
	if _, inside := userns.Inside(); inside || userns.Check(userns.Root) != nil {
		t.Skip("needs root, to make a device")
	}
	source, dir := filepath.Join(t.TempDir(), "zero"), t.TempDir()
	if err := errors.Join(unix.Mknod(source, unix.S_IFCHR, int(unix.Mkdev(1, 5))), os.Chown(source, 5, 6), os.Chmod(source, 0o640)); err != nil {
		t.Fatal(err)
	}
	if err := sandbox.FillDev(dir, map[string]string{"deep/zero": source}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(dir, "deep/zero"), &st)
	if err != nil || st.Mode != unix.S_IFCHR|0o640 || st.Uid != 5 || st.Gid != 6 || st.Rdev != unix.Mkdev(1, 5) {
		t.Errorf("%o %d:%d %d, %v", st.Mode, st.Uid, st.Gid, st.Rdev, err)
	}
}

// A flat root in namespaces has all that an overlay has.
func TestFlatRoot(t *testing.T) {
	spec := sh(t, "echo new > /etc/new; test -c /dev/null && test -d /proc/self && cat /etc/old /f; mount -t tmpfs x /etc 2>&-; echo $$")
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "mounted\n")
	spec.Mounts = []sandbox.Mount{bind(file, "/f", true)}
	spec.Root = sandbox.Root{Flat: spec.Root.Lower[0], Target: spec.Root.Target}
	expect(t, spec, "old\nmounted\n1\n")
	if b, _ := os.ReadFile(filepath.Join(spec.Root.Flat, "etc/new")); string(b) != "new\n" {
		t.Errorf("got %q", b)
	}
}

// TestInChroot runs the tests of chroots as root without the right to mount.
func TestInChroot(t *testing.T) {
	if _, inside := userns.Inside(); inside || os.Geteuid() != 0 || userns.Check(userns.Root) != nil {
		t.Skip("needs root, to give something up")
	}
	for _, caps := range [][]string{{"sys_admin"}, {"sys_admin", "mknod", "setpcap"}} {
		without := "-" + strings.Join(caps, ",-")
		cmd := exec.Command("setpriv", "--bounding-set", without, "--inh-caps", without, os.Args[0], "-test.v", "-test.run=^Test(Chroot.*|FillDev)$")
		cmd.Env = append(os.Environ(), "SANDBOX_TEST_CHROOT=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !slices.Contains(strings.Fields(string(out)), "PASS:") {
			t.Errorf("without %v: %v\n%s", caps, err, out)
		}
	}
}
