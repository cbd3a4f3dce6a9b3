package sandbox_test

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
	"golang.org/x/sys/unix"
)

// The attacks are steps that want to get out: this program, as the command of a sandbox, see attackers_test.go. Each runs as
// root, in both kinds of user namespace (TestInUserNamespace), in a container (TestInContainer), and in a chroot (TestInChroot).

const (
	attackVariable  = "SANDBOX_TEST_ATTACK" // which one
	builderVariable = "SANDBOX_TEST_VICTIM" // the process id of the builder
	// terminalVariable says that the attacker has a terminal.
	terminalVariable = "SANDBOX_TEST_TERMINAL"
)

// An attack fails with an error that says how far it has come.
type attack struct {
	name string
	run  func() error
	where
}

// where says which sandboxes repel an attack. A chroot gives less than namespaces, see the manual.
type where int

const (
	everywhere where = iota
	scoped           // in a chroot it takes Linux 6.12
	noChroot         // there is no /proc in a chroot, or its processes are those around the build
	alone            // as noChroot, and an init is another process
)

// TestAttacks runs all attacks in namespaces.
func TestAttacks(t *testing.T) {
	listen(t, "unix", abstractSocket(strconv.Itoa(os.Getpid())), echo)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { repel(t, attackInNamespaces(t, a)) })
	}
}

// TestAttacksOnTerminal runs them once more, below an init and with a terminal.
func TestAttacksOnTerminal(t *testing.T) {
	listen(t, "unix", abstractSocket(strconv.Itoa(os.Getpid())), echo)
	for _, a := range attacks {
		if a.where == alone {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			spec := onOwnTerminal(attackInNamespaces(t, a))
			spec.Init = true
			repel(t, spec)
		})
	}
}

func attackInNamespaces(t *testing.T, a attack) sandbox.Spec {
	t.Helper()
	spec := attackSpec(t, newSpec(t, "/attack"), a.name)
	spec.OneUID, spec.Network = mode(t) == userns.SingleID, sandbox.NetworkNone
	return spec
}

func onOwnTerminal(spec sandbox.Spec) sandbox.Spec {
	spec.Terminal, spec.Env = &sandbox.Window{}, append(spec.Env, terminalVariable+"=1")
	return spec
}

// TestChrootAttacks runs all attacks where there are no namespaces.
func TestChrootAttacks(t *testing.T) {
	listen(t, "unix", abstractSocket(strconv.Itoa(os.Getpid())), echo)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if a.where == noChroot || a.where == alone {
				t.Skip("a chroot does not promise that")
			}
			if a.where == scoped && !sandbox.Scoped() {
				t.Skip("this kernel has no Landlock, or an old one")
			}
			repel(t, attackInChroot(t, a))
		})
	}
}

// There the terminal is one of the host's.
func TestChrootAttackOnTerminal(t *testing.T) {
	for _, a := range attacks {
		if a.name == "terminal" || a.name == "inherited descriptors" {
			t.Run(a.name, func(t *testing.T) { repel(t, onOwnTerminal(attackInChroot(t, a))) })
		}
	}
}

func attackInChroot(t *testing.T, a attack) sandbox.Spec {
	t.Helper()
	spec := chrootSpec(t, "")
	spec.Args = []string{"/attack"}
	spec.Root.Lower = []string{spec.Root.Flat} // where attackSpec puts things
	spec = attackSpec(t, spec, a.name)
	spec.Root.Lower, spec.Mounts = nil, nil
	return spec
}

// attackSpec makes spec a plan of an attack.
func attackSpec(t testing.TB, spec sandbox.Spec, name string) sandbox.Spec {
	t.Helper()
	spec.Env = append(spec.Env, attackVariable+"="+name, builderVariable+"="+strconv.Itoa(os.Getpid()), "GORACE=atexit_sleep_ms=0",
		"GODEBUG=containermaxprocs=0", // or the Go runtime keeps files open
		maskedVariable+"="+os.Getenv(maskedVariable))
	root := spec.Root.Lower[0]
	copyFile(t, "/proc/self/exe", root+"/attack")
	copyLibraries(t, root, root+"/attack")
	return spec
}

// copyLibraries copies the libraries that a program needs into a root: with -race it needs some.
func copyLibraries(t testing.TB, root, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		libraries = append(libraries, strings.TrimRight(string(b), "\x00"))
	}
	for _, name := range libraries {
		for _, dir := range []string{"", "/lib64/", "/lib/", "/lib/x86_64-linux-gnu/", "/lib/aarch64-linux-gnu/"} {
			to := root + dir + name
			if _, err := os.Stat(to); err == nil || dir+name == name && dir == "" && !strings.HasPrefix(name, "/") {
				continue
			}
			if _, err := os.Stat(dir + name); err != nil {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			copyFile(t, dir+name, to)
			copyLibraries(t, root, to)
			break
		}
	}
}

// repel runs an attack that must come to nothing.
func repel(t *testing.T, spec sandbox.Spec) {
	t.Helper()
	heard := make(chan os.Signal, 16)
	signal.Notify(heard, unix.SIGWINCH)
	defer signal.Stop(heard)
	out, stderr, status, err := try(spec)
	if len(heard) > 0 {
		t.Error("a signal came out")
	}
	if err != nil || status.Code != 0 {
		t.Errorf("%+v, %v\n%s%s", status, err, out, stderr)
	}
}

// The command /proc/self/exe, or a script with that interpreter, is no way to the program that the sandbox was made by
// (CVE-2019-5736).
func TestAttackOnTheProgram(t *testing.T) {
	for _, command := range []string{"/script", "/proc/self/exe"} {
		spec := newSpec(t, command)
		write(t, spec.Root.Lower[0]+"/script", "#!/proc/self/exe\n")
		if err := os.Chmod(spec.Root.Lower[0]+"/script", 0o755); err != nil {
			t.Fatal(err)
		}
		out, stderr, status, err := try(spec)
		if err != nil || status.Code != 126 || out+stderr != "" {
			t.Errorf("%s: %+v, %v\n%s%s", command, status, err, out, stderr)
		}
	}
}

// What is left of a fork bomb ends with the sandbox.
func TestForkBomb(t *testing.T) {
	spec := limited(t, sh(t, `bomb() { bomb | bomb & }; echo ready; bomb; while :; do sleep 0.01; done`), sandbox.Limits{PIDs: 64})
	dir := t.TempDir()
	spec.Env = append(spec.Env, "MARKER="+dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &signalWriter{first: make(chan struct{})}
	p, err := sandbox.Start(ctx, spec, sandbox.Stdio{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	<-out.first
	cancel()
	p.Wait()
	bombs := func(proc string) bool { return testkit.ProcHolds(proc+"/environ", dir) }
	if left := testkit.Processes(bombs); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	noGroupLeft(t)
}

// signalWriter tells of the first thing that is written to it.
type signalWriter struct{ first chan struct{} }

func (w *signalWriter) Write(b []byte) (int, error) {
	select {
	case <-w.first:
	default:
		close(w.first)
	}
	return len(b), nil
}

// A set-user-ID program of root's makes nobody root.
func TestSetUserID(t *testing.T) {
	spec := sh(t, "/bin/busybox-s id -u; /bin/busybox-s id -g")
	program := spec.Root.Lower[0] + "/bin/busybox-s"
	copyFile(t, "/bin/busybox", program)
	if err := os.Chmod(program, os.ModeSetuid|os.ModeSetgid|0o755); err != nil {
		t.Fatal(err)
	}
	spec.UID, spec.GID, spec.Groups = 1000, 1001, []uint32{1001}
	spec.OneUID = mode(t) == userns.SingleID
	expect(t, spec, "1000\n1001\n")
}

// The supervisor of a sandbox with one id acts with rights of its own, on names and memory that the sandbox changes meanwhile. No file
// outside of the root gets an owner or a mark, and what is mounted read-only gets none either.
func TestSupervisorStaysInside(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	write(t, victim, "host")
	if err := os.Chmod(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	for name := range supervisorAttacks {
		t.Run(name, func(t *testing.T) {
			spec := attackSpec(t, oneUID(t, ""), "supervisor/"+name)
			spec.Args = []string{"/attack"}
			spec.OneUID = mode(t) != userns.SubIDs // as root it works as well, and shows what only root could do
			if !spec.OneUID {
				t.Skip("there is no supervisor")
			}
			spec.Env = append(spec.Env, "VICTIM="+victim)
			spec.Mounts = append(spec.Mounts, bind(outside, "/shown", true))
			for _, dir := range []string{"/shown", outside} { // the same path inside is another file
				if err := os.MkdirAll(spec.Root.Lower[0]+dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write(t, spec.Root.Lower[0]+victim, "inside")
			repel(t, spec)
			var st unix.Stat_t
			if err := unix.Stat(victim, &st); err != nil || int(st.Uid) != os.Getuid() {
				t.Errorf("the file outside belongs to %d, %v", st.Uid, err)
			}
			for _, file := range []string{victim, outside} {
				if m := owners.Read(file); !m.IsZero() {
					t.Errorf("%s has the mark %v", file, m)
				}
			}
			list, err := os.ReadDir(outside)
			if err != nil || len(list) != 1 {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

// attackIfAsked makes this process an attacker if it is one.
func attackIfAsked() {
	name := os.Getenv(attackVariable)
	if name == "" {
		return
	}
	run := func() error { return fmt.Errorf("no attack %q", name) }
	for _, a := range attacks {
		if a.name == name {
			run = a.run
		}
	}
	if name, ok := strings.CutPrefix(name, "supervisor/"); ok {
		run = supervisorAttacks[name]
	}
	if name, ok := strings.CutPrefix(name, "calls/"); ok {
		run = ownerCalls[name]
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// The attacks find what they look for where it is.
func TestAttacksFindWhatIsThere(t *testing.T) {
	if _, inside := userns.Inside(); inside {
		t.Skip("needs root of the host: root of a user namespace may not do all of it")
	}
	if err := userns.Check(userns.Root); err != nil {
		t.Skipf("needs root of the host: %v", err)
	}
	for _, name := range []string{"memory and credentials of the builder", "signals", "processes of others in proc", "mounts", "file handles"} {
		cmd := exec.Command("unshare", "--mount", "/proc/self/exe")
		cmd.Args[2], _ = os.Executable()
		cmd.Env = []string{attackVariable + "=" + name, builderVariable + "=" + strconv.Itoa(os.Getpid()), "GORACE=atexit_sleep_ms=0"}
		cmd.Dir = t.TempDir()
		if out, err := cmd.CombinedOutput(); err == nil || len(out) == 0 {
			t.Errorf("without a sandbox, %s: %v, %s", name, err, out)
		}
	}
}
