package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
	"golang.org/x/sync/errgroup"
)

func TestStatus(t *testing.T) {
	for script, want := range map[string]sandbox.Status{
		"exit 0":                      {},
		"exit 3":                      {Code: 3},
		"sh -c 'kill -9 $$'; exit $?": {Code: 137}, // what the shell says about its child
	} {
		t.Run(script, func(t *testing.T) {
			_, _, status, err := try(sh(t, script))
			if err != nil || endOf(status) != want {
				t.Errorf("got %+v, %v; want %+v", status, err, want)
			}
		})
	}
}

func TestKilledBySignal(t *testing.T) {
	p := startReady(t.Context(), t, new(sandbox.Runner), sh(t, "echo ready; sleep 1000"))
	if err := p.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait()
	if want := (sandbox.Status{Code: 137, Signal: 9}); err != nil || endOf(status) != want {
		t.Errorf("got %+v, %v; want %+v", status, err, want)
	}
}

func TestSignalReachesHandler(t *testing.T) { signalReachesHandler(t, sh) }

// signalReachesHandler sends a signal to a process of a plan that plan returns.
func signalReachesHandler(t *testing.T, plan func(t testing.TB, script string) sandbox.Spec) {
	t.Helper()
	p := startReady(t.Context(), t, new(sandbox.Runner), plan(t, "trap 'exit 7' TERM; sleep 1000 & echo ready; wait"))
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err != nil || status.Code != 7 {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestStreams(t *testing.T) {
	stdout, stderr, _, err := try(sh(t, "echo out; echo err >&2; echo again > /dev/stderr"))
	if err != nil || stdout != "out\n" || stderr != "err\nagain\n" {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
	// Without streams there is /dev/null.
	if status, err := sandbox.Run(t.Context(), sh(t, "cat && echo lost && echo lost >&2"), sandbox.Stdio{}); err != nil || status.Code != 0 {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestInput(t *testing.T) {
	var out bytes.Buffer
	if _, err := sandbox.Run(t.Context(), newSpec(t, "cat"), sandbox.Stdio{In: strings.NewReader("text"), Out: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "text" {
		t.Errorf("got %q", out.String())
	}
	// A reader that never ends does not hold up the end.
	never, w := io.Pipe()
	defer w.Close()
	if _, err := sandbox.Run(t.Context(), newSpec(t, "true"), sandbox.Stdio{In: never}); err != nil {
		t.Error(err)
	}
}

// What does not run reads no input: it is for who is started in its place.
func TestInputOfNone(t *testing.T) {
	in := strings.NewReader("text")
	if _, err := sandbox.Run(t.Context(), newSpec(t, "/missing"), sandbox.Stdio{In: in}); err == nil {
		t.Fatal("a program that is not there was started")
	}
	var out strings.Builder
	if _, err := sandbox.Run(t.Context(), newSpec(t, "cat"), sandbox.Stdio{In: in, Out: &out}); err != nil || out.String() != "text" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestFilesAreHandedOver(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := sandbox.Run(t.Context(), newSpec(t, "stat", "-Lc", "%F", "/proc/self/fd/1"), sandbox.Stdio{Out: f}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(name); string(b) != "regular empty file\n" {
		t.Errorf("got %q", b)
	}
}

func TestEnvironment(t *testing.T) {
	spec := newSpec(t, "env")
	spec.Env = []string{"PATH=/bin", "A=b c", "EMPTY="}
	expect(t, spec, "PATH=/bin\nA=b c\nEMPTY=\n")
}

// What a user writes need not be UTF-8.
func TestBytesPassUnchanged(t *testing.T) {
	spec := sh(t, "printf '\xff\xe9'; echo \"$L\"; pwd")
	spec.Env = append(spec.Env, "L=caf\xe9")
	spec.Cwd = "/caf\xe9"
	expect(t, spec, "\xff\xe9caf\xe9\n/caf\xe9\n")
}

func TestWorkingDirectory(t *testing.T) {
	spec := sh(t, "pwd; stat -c '%a %u %g' . ..")
	spec.Cwd = "/a/b"
	expect(t, spec, "/a/b\n755 0 0\n755 0 0\n")
}

// A descriptor of ours that the working directory named would lead out of the root (CVE-2024-21626).
func TestWorkingDirectoryNamesADescriptor(t *testing.T) {
	for fd := range 12 {
		spec := newSpec(t, "pwd")
		spec.Cwd = "/proc/self/fd/" + strconv.Itoa(fd)
		if out, _, _, err := try(spec); err == nil && !strings.HasPrefix(out, "/proc/") {
			t.Errorf("%s was %q", spec.Cwd, out)
		}
	}
}

func TestUser(t *testing.T) {
	if mode(t) == userns.SingleID {
		spec := newSpec(t, "id")
		spec.UID = 1000
		if _, _, _, err := try(spec); err == nil || !strings.Contains(err.Error(), "not mapped") {
			t.Errorf("got %v", err)
		}
		return
	}
	spec := sh(t, "id; cat /proc/self/status; echo > /dev/stdout")
	spec.UID, spec.GID, spec.Groups = 1000, 1001, []uint32{1001, 2000}
	out := run(t, spec)
	if want := "uid=1000 gid=1001 groups=1001,2000\n"; !strings.HasPrefix(out, want) {
		t.Errorf("got %q, want %q", out, want)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t00000000a80425fb"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestPrivileges(t *testing.T) {
	out := run(t, newSpec(t, "cat", "/proc/self/status"))
	for _, want := range []string{
		"CapInh:\t0000000000000000",
		"CapPrm:\t00000000a80425fb",
		"CapEff:\t00000000a80425fb",
		"CapBnd:\t00000000a80425fb",
		"CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1",
		"SigBlk:\t0000000000000000",
		"SigIgn:\t0000000000000000",
		"Umask:\t0022",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestNoCapabilities(t *testing.T) {
	spec := newSpec(t, "cat", "/proc/self/status")
	spec.Caps = nil
	if out := run(t, spec); !strings.Contains(out, "CapEff:\t0000000000000000") {
		t.Error(out)
	}
}

func TestProcess(t *testing.T) {
	expect(t, sh(t, "echo $$; hostname; umask"), "1\ntesthost\n0022\n")
}

func TestNoHostDescriptors(t *testing.T) {
	// A descriptor without close-on-exec is what a careless library leaves behind.
	fd, err := syscall.Open("/", syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	expect(t, sh(t, "n=0; while [ $n -lt 200 ]; do [ -L /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done; exit 0"), "0\n1\n2\n")
}

func TestOwnSession(t *testing.T) {
	// Field 6 of stat is the session; 0 is one that lives outside of the pid namespace.
	session := `sh -c 'set -- $(cat /proc/1/stat); echo $6'`
	expect(t, sh(t, session), "1\n")
}

func TestUpperHoldsTheChange(t *testing.T) {
	spec := sh(t, "echo new > /etc/new; rm /etc/old; mkdir -m 700 /d; ln -s x /l")
	run(t, spec)
	upper := spec.Root.Upper
	if b, err := os.ReadFile(upper + "/etc/new"); err != nil || string(b) != "new\n" {
		t.Errorf("new file: %q, %v", b, err)
	}
	info, err := os.Lstat(upper + "/etc/old")
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode().Type() != os.ModeDevice|os.ModeCharDevice || st.Rdev != 0 {
		t.Errorf("removed file: %v, device %d", info.Mode(), st.Rdev)
	}
	if info, err := os.Lstat(upper + "/d"); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("folder: %v, %v", info, err)
	}
	if _, err := os.Lstat(spec.Root.Lower[0] + "/etc/old"); err != nil {
		t.Errorf("lower tree: %v", err)
	}
	entries, err := os.ReadDir(upper)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "d dev etc l proc sys" {
		t.Errorf("upper holds %s", got)
	}
}

func TestReplacedDirectoryIsOpaque(t *testing.T) {
	spec := sh(t, "rm -r /etc && mkdir /etc && touch /etc/only")
	run(t, spec)
	b := make([]byte, 8)
	n, err := syscall.Getxattr(spec.Root.Upper+"/etc", "user.overlay.opaque", b)
	if err != nil || string(b[:n]) != "y" {
		t.Errorf("got %q, %v", b[:max(n, 0)], err)
	}
}

func TestOrphansAreKilled(t *testing.T) {
	// The orphan holds our pipe open: were it left, this would wait for what it has to say.
	expect(t, sh(t, "sh -c 'sleep 1000; echo late' & echo early"), "early\n")
}

func TestCancelKillsAll(t *testing.T) {
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	p := startReady(ctx, t, new(sandbox.Runner), sh(t, "trap '' TERM INT; sleep 1000 & echo ready; sleep 1000"))
	cancel(cause)
	if status, err := p.Wait(); !errors.Is(err, cause) || status.Signal != 9 {
		t.Errorf("got %+v, %v", status, err)
	}
	if _, err := sandbox.Run(ctx, newSpec(t, "true"), sandbox.Stdio{}); !errors.Is(err, cause) {
		t.Errorf("cancelled before the start: %v", err)
	}
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	for _, c := range []struct {
		name, want string
		code       int
	}{
		{"foo", `exec: "foo": executable file not found in $PATH`, 127},
		{"/bin/foo", `exec: "/bin/foo": stat /bin/foo: no such file or directory`, 127},
		{"./foo", `exec: "./foo": stat ./foo: no such file or directory`, 127},
		{"/etc/passwd", `exec: "/etc/passwd": stat /etc/passwd: permission denied`, 126},
		{"plain", `exec: "plain": permission denied`, 126},
		{"/etc", `exec: "/etc": stat /etc: is a directory`, 126},
		{"garbage", `exec: "garbage": exec format error`, 126},
		{"script", `exec: "script": no such file or directory`, 127},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := newSpec(t, c.name)
			bin := spec.Root.Lower[0] + "/bin/"
			write(t, bin+"plain", "text")
			write(t, bin+"garbage", "text")
			write(t, bin+"script", "#!/no/interpreter\n")
			for _, name := range []string{"garbage", "script"} {
				if err := os.Chmod(bin+name, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			_, _, _, err := try(spec)
			var execErr *sandbox.ExecError
			if !errors.As(err, &execErr) {
				t.Fatalf("got %v", err)
			}
			if execErr.Error() != c.want || execErr.ExitCode() != c.code {
				t.Errorf("got %d, %s\nwant %d, %s", execErr.ExitCode(), execErr, c.code, c.want)
			}
		})
	}
}

func TestNoPathFindsNothing(t *testing.T) {
	spec := newSpec(t, "true")
	spec.Env, spec.Cwd = nil, "/bin"
	if _, _, _, err := try(spec); err == nil {
		t.Error("a command was found in the working directory")
	}
}

func TestBadPlans(t *testing.T) {
	for name, change := range map[string]func(*sandbox.Spec){
		"no lower":   func(s *sandbox.Spec) { s.Root.Lower = nil },
		"no command": func(s *sandbox.Spec) { s.Args = nil },
		"relative":   func(s *sandbox.Spec) { s.Root.Upper = "upper" },
		"network":    func(s *sandbox.Spec) { s.Network = "" },
		"capability": func(s *sandbox.Spec) { s.Caps = []string{"CAP_FLY"} },
		"zero byte":  func(s *sandbox.Spec) { s.Env = []string{"A=\x00"} },
		"mount on root": func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: "/", Target: "/."}}
		},
		"mount type":    func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/", Target: "/x"}} },
		"missing lower": func(s *sandbox.Spec) { s.Root.Lower = append(s.Root.Lower, "/does/not/exist") },
		"missing source": func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: "/does/not/exist", Target: "/x"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := newSpec(t, "true")
			change(&spec)
			_, _, _, err := try(spec)
			var execErr *sandbox.ExecError
			if err == nil || errors.As(err, &execErr) {
				t.Errorf("got %v", err)
			}
			t.Log(err)
		})
	}
}

func TestNetworkNone(t *testing.T) {
	spec := sh(t, "ip -o link | cat; ip -o addr show dev lo")
	spec.Network = sandbox.NetworkNone
	out := run(t, spec)
	if strings.Count(out, ": lo:") != 1 || !strings.Contains(out, "127.0.0.1/8") || !strings.Contains(out, "LOOPBACK,UP") {
		t.Error(out)
	}
	for line := range strings.Lines(out) {
		// The kernel gives every network namespace the fallback devices of loaded tunnel modules; they are down.
		if !strings.Contains(line, " lo") && strings.Contains(line, ",UP") {
			t.Errorf("has %s", line)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	specs := make([]sandbox.Spec, 8)
	for i := range specs {
		specs[i] = sh(t, "echo $$ > /pid; exit "+strconv.Itoa(i))
	}
	var group errgroup.Group
	for i, spec := range specs {
		group.Go(func() error {
			status, err := sandbox.Run(t.Context(), spec, sandbox.Stdio{})
			if err == nil && status.Code != i {
				err = fmt.Errorf("sandbox %d: status %+v", i, status)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// The clock only chooses the moment: whichever it is, the cause is returned.
func TestCancelAtAnyMoment(t *testing.T) {
	for delay := range 15 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(delay)*time.Millisecond)
		_, err := sandbox.Run(ctx, newSpec(t, "sleep", "1000"), sandbox.Stdio{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", delay, err)
		}
	}
}

func TestDiesWithParent(t *testing.T) {
	if os.Getenv(helperVariable) != "" {
		sandbox.Run(t.Context(), sh(t, "trap '' TERM HUP; echo ready; sleep 1000"), sandbox.Stdio{Out: os.Stdout})
		return
	}
	mode(t)
	out := killHelper(t, t.TempDir())
	if _, err := io.Copy(io.Discard, out); err != nil { // which ends when nobody holds it any more
		t.Error(err)
	}
}
