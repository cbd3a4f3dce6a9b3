package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
)

// modeVariable makes the test program enter a user namespace first.
const modeVariable = "SANDBOX_TEST_MODE"

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race test takes a second to end
	attackIfAsked()
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
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.v", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), modeVariable+"="+name)
			if os.Geteuid() == 0 {
				becomeOrdinary(t, cmd)
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
	becomeOrdinary(t, cmd)
	user := cmd.SysProcAttr.Credential
	script := fmt.Sprintf(`mount --bind /dev/null /proc/keys && mount -t tmpfs none /sys/firmware &&
		exec setpriv --reuid=%d --regid=%d --clear-groups "$0" -test.v -test.run="$1"`, user.Uid, user.Gid)
	tests := "^Test(Status|Streams|Environment|WorkingDirectory|User|Privileges|MountTable|SystemFolders|NetworkNone|Orphans.*|Proc|Attack.*)$"
	outer := exec.Command("unshare", "--mount", "sh", "-c", script, cmd.Path, tests)
	outer.Env = append(os.Environ(), append(cmd.Env, modeVariable+"=subids", maskedVariable+"=1")...)
	outer.Dir = cmd.Dir
	out, err := outer.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// becomeOrdinary has cmd, this program, run as an ordinary user.
func becomeOrdinary(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	u := testkit.OrdinaryUser(t)
	dir := testkit.OpenDir(t)
	cmd.Path = testkit.Program(t, dir)
	cmd.Args[0], cmd.Dir = cmd.Path, u.Dir(t, filepath.Join(dir, "tmp"))
	u.Become(cmd)
	cmd.Env = append(cmd.Env, "TMPDIR="+cmd.Dir)
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
	applets(t, spec, "sh readlink cat ls id true sleep grep tr hostname env pwd mount touch rm mkdir echo ip kill stat ln")
	write(t, lower+"/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
	write(t, lower+"/etc/old", "old\n")
	return spec
}

// applets adds programs of busybox to the root of spec.
func applets(t testing.TB, spec sandbox.Spec, names string) {
	t.Helper()
	root := spec.Root.Flat
	if root == "" {
		root = spec.Root.Lower[0]
	}
	for name := range strings.FieldsSeq(names) {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
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

// startReady starts spec, with r, and returns when the process has printed "ready".
func startReady(ctx context.Context, t testing.TB, r *sandbox.Runner, spec sandbox.Spec) *sandbox.Process {
	t.Helper()
	out, w := io.Pipe()
	p, err := r.Start(ctx, spec, sandbox.Stdio{Out: w})
	if err != nil {
		t.Fatal(err)
	}
	awaitReady(t, out)
	return p
}

func awaitReady(t testing.TB, out io.Reader) {
	t.Helper()
	b := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "ready\n" {
		t.Fatalf("%q, %v", b, err)
	}
}

// helperVariable is the folder of a test whose program runs itself, as somebody who gets killed.
const helperVariable = "SANDBOX_TEST_HELPER"

// killHelper runs the test once more, with helperVariable set to dir, kills it once it has printed "ready", and
// returns what is left of its output.
func killHelper(t *testing.T, dir string) io.Reader {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), helperVariable+"="+dir, "TMPDIR="+t.TempDir())
	if _, inside := userns.Inside(); inside {
		cmd.Env = append(cmd.Env, modeVariable+"=") // it is root here
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	awaitReady(t, out)
	cmd.Process.Kill()
	cmd.Wait()
	return out
}
