package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
)

// modeVariable makes the test program enter a user namespace first.
const modeVariable = "SANDBOX_TEST_MODE"

func TestMain(m *testing.M) {
	sandbox.Main()
	if os.Getenv(clientVariable) != "" {
		if err := runClient(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if _, inside := userns.Inside(); os.Getenv(modeVariable) != "" && !inside {
		mode := userns.SingleID
		if os.Getenv(modeVariable) == "subids" {
			mode = userns.SubIDs
		}
		status, err := userns.Enter(context.Background(), mode)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// maskedVariable tells the test program that it runs below TestInContainer.
const maskedVariable = "SANDBOX_TEST_MASKED"

// mode returns how this process got its privilege; without any, the test is skipped.
func mode(t testing.TB) userns.Mode {
	t.Helper()
	if m, inside := userns.Inside(); inside {
		return m
	}
	if err := userns.Check(userns.Root); err != nil {
		t.Skipf("%v; TestInUserNamespace covers the other modes", err)
	}
	return userns.Root
}

// TestInUserNamespace runs the other tests once more in each kind of user namespace, as
// an ordinary user if we are root.
func TestInUserNamespace(t *testing.T) {
	if _, inside := userns.Inside(); inside {
		t.Skip("is inside already")
	}
	for _, name := range []string{"subids", "single"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.v", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), modeVariable+"="+name)
			if os.Geteuid() == 0 {
				becomeTestUser(t, cmd)
			} else if name == "subids" {
				if err := userns.Check(userns.SubIDs); err != nil {
					t.Skip(err)
				}
			}
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() == 4 && os.Geteuid() != 0 {
				t.Skipf("%s", out) // this host does not allow it
			}
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestInContainer runs tests in a user namespace on a host whose /proc and /sys are partly masked,
// as they are in containers: there the kernel refuses new ones.
func TestInContainer(t *testing.T) {
	if _, inside := userns.Inside(); inside || userns.Check(userns.Root) != nil {
		t.Skip("needs root, to mask the host's /proc")
	}
	cmd := exec.Command(os.Args[0])
	becomeTestUser(t, cmd)
	user := cmd.SysProcAttr.Credential
	script := fmt.Sprintf(`mount --bind /dev/null /proc/keys && mount -t tmpfs none /sys/firmware &&
		exec setpriv --reuid=%d --regid=%d --clear-groups "$0" -test.v -test.run="$1"`, user.Uid, user.Gid)
	tests := "^Test(Status|Streams|Environment|WorkingDirectory|User|Privileges|MountTable|SystemFolders|NetworkNone|Orphans.*|Proc)$"
	outer := exec.Command("unshare", "--mount", "sh", "-c", script, cmd.Path, tests)
	outer.Env = append(os.Environ(), append(cmd.Env, modeVariable+"=subids", maskedVariable+"=1")...)
	outer.Dir = cmd.Dir
	out, err := outer.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// becomeTestUser has cmd, this program, run as the ordinary user buildtest.
func becomeTestUser(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	const name = "buildtest"
	u, err := user.Lookup(name)
	if err != nil {
		if out, err := exec.Command("useradd", "--create-home", name).CombinedOutput(); err != nil {
			t.Skipf("cannot make the user %s: %v: %s", name, err, out)
		}
		if u, err = user.Lookup(name); err != nil {
			t.Skip(err)
		}
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	// The program that go test made is in a folder for us only.
	dir := t.TempDir()
	for d := dir; d != filepath.Clean(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "sandbox.test")
	copyFile(t, os.Args[0], program)
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, uid, gid); err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args[0], cmd.Dir = program, program, tmp
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp, "HOME="+u.HomeDir, "USER="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// newSpec returns the plan of a busybox root with the command args.
func newSpec(t testing.TB, args ...string) sandbox.Spec {
	t.Helper()
	if os.Getenv("SANDBOX_TEST_CHROOT") == "" { // which needs no namespaces
		mode(t)
	}
	dir := t.TempDir()
	spec := sandbox.Spec{
		Root: sandbox.Root{
			Lower:  []string{filepath.Join(dir, "lower")},
			Upper:  filepath.Join(dir, "upper"),
			Work:   filepath.Join(dir, "work"),
			Target: filepath.Join(dir, "root"),
		},
		Args:     args,
		Env:      []string{"PATH=/sbin:/bin"},
		Cwd:      "/",
		Caps:     sandbox.DefaultCaps(),
		Hostname: "testhost",
		Network:  sandbox.NetworkHost,
	}
	lower := spec.Root.Lower[0]
	for _, d := range []string{lower + "/bin", lower + "/etc", spec.Root.Upper, spec.Root.Work, spec.Root.Target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, "/bin/busybox", lower+"/bin/busybox")
	for _, applet := range strings.Fields("sh readlink cat ls id true sleep grep tr hostname env pwd mount touch rm mkdir echo ip kill stat ln") {
		if err := os.Symlink("busybox", lower+"/bin/"+applet); err != nil {
			t.Fatal(err)
		}
	}
	write(t, lower+"/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
	write(t, lower+"/etc/old", "old\n")
	return spec
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sh returns a plan that runs a shell script.
func sh(t testing.TB, script string) sandbox.Spec {
	t.Helper()
	return newSpec(t, "sh", "-c", script)
}

// run runs spec and returns its standard output; the process has to succeed.
func run(t testing.TB, spec sandbox.Spec) string {
	t.Helper()
	out, stderr, status, err := try(spec)
	if err != nil || status.Code != 0 {
		t.Fatalf("%v: status %+v, error %v\n%s%s", spec.Args, status, err, out, stderr)
	}
	return out
}

func try(spec sandbox.Spec) (stdout, stderr string, status sandbox.Status, err error) {
	var out, errOut bytes.Buffer
	status, err = sandbox.Run(context.Background(), spec, sandbox.Stdio{Out: &out, Err: &errOut})
	return out.String(), errOut.String(), status, err
}

// expect compares the output of spec with want.
func expect(t testing.TB, spec sandbox.Spec, want string) {
	t.Helper()
	if got := run(t, spec); got != want {
		t.Errorf("%v:\n got %q\nwant %q", spec.Args, got, want)
	}
}
