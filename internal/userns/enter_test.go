package userns_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
)

// modeVariable turns this test program into one that enters a namespace and does there what its argument says.
const modeVariable = "USERNS_TEST_MODE"

func TestMain(m *testing.M) {
	name := os.Getenv(modeVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if mode, inside := userns.Inside(); inside {
		inner(mode)
	}
	if name == "probe" {
		probe(os.Args[1])
	}
	mode := userns.SingleID
	if name == "subids" {
		mode = userns.SubIDs
	}
	ctx, cancel := context.WithCancel(context.Background())
	if os.Getenv("USERNS_TEST_CANCEL") != "" {
		go func() {
			io.ReadAll(os.Stdin)
			cancel()
		}()
	}
	status, err := userns.Enter(ctx, mode)
	if err != nil {
		fmt.Println(err)
		var host *userns.HostError
		if errors.As(err, &host) {
			fmt.Println("hint:", host.Hint)
		}
		os.Exit(4)
	}
	os.Exit(status)
}

// probe prints what Probe says of a mode, or which of them work.
func probe(name string) {
	if m, ok := userns.ParseMode(name); ok {
		if err := userns.Probe(context.Background(), m); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("works")
		os.Exit(0)
	}
	for _, m := range userns.Modes() {
		if err := userns.Probe(context.Background(), m); err == nil {
			fmt.Print(m, " ")
		}
	}
	if userns.Gather().ForeignMounts {
		fmt.Print("foreign mounts")
	}
	os.Exit(0)
}

// inner is the program inside the namespace.
func inner(mode userns.Mode) {
	switch os.Args[1] {
	case "exit":
		os.Exit(7)
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "show":
		fmt.Println(mode, os.Args[2:], os.Getenv("ANOTHER"), os.Getuid(), os.Getgid())
		for _, file := range []string{"uid_map", "setgroups", "status"} {
			b, _ := os.ReadFile("/proc/self/" + file)
			os.Stdout.Write(b)
		}
	case "mount":
		if err := unix.Mount("userns-test-inside", os.TempDir(), "tmpfs", 0, ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "child":
		cmd := exec.Command("/proc/self/exe", "exit") // which enters a nested namespace
		cmd.Stdout = os.Stdout
		cmd.Run()
		fmt.Println("child:", cmd.ProcessState)
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "signal":
		c := make(chan os.Signal, 10)
		signal.Notify(c, unix.SIGTERM, unix.SIGINT)
		fmt.Println(os.Getpid())
		for s := range c {
			fmt.Println(s)
			if s == unix.SIGTERM {
				os.Exit(9)
			}
		}
	case "limit":
		// The limit is that of this namespace; the host's stays.
		os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
		for _, err := range []error{userns.Check(userns.SingleID), enterError()} {
			var host *userns.HostError
			if !errors.As(err, &host) {
				fmt.Println("no HostError:", err)
				os.Exit(1)
			}
			fmt.Println(host, "|", host.Hint)
		}
	}
	os.Exit(0)
}

func enterError() error {
	_, err := userns.Enter(context.Background(), userns.SingleID)
	return err
}

// command returns the test program, as an ordinary user, about to enter a namespace.
func command(t testing.TB, mode string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), modeVariable+"="+mode, "ANOTHER=variable",
		"GORACE=atexit_sleep_ms=0") // or each process of a -race test takes a second to end
	cmd.Stderr = os.Stderr
	if os.Geteuid() == 0 {
		testkit.OrdinaryUser(t).Become(cmd)
	} else if mode == "subids" {
		if err := userns.Check(userns.SubIDs); err != nil {
			t.Skip(err)
		}
	}
	return cmd
}

// eachMode runs f for both ways to map ids.
func eachMode(t *testing.T, f func(t *testing.T, mode string)) {
	for _, mode := range []string{"subids", "single"} {
		t.Run(mode, func(t *testing.T) { f(t, mode) })
	}
}

func TestStatus(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		for arg, want := range map[string]int{"exit": 7, "kill": 137, "nothing": 0} {
			cmd := command(t, mode, arg)
			cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%s: got %d, want %d", arg, got, want)
			}
		}
	})
}

func TestInside(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		b, err := command(t, mode, "show", "a b", "").Output()
		if err != nil {
			t.Fatal(err, string(b))
		}
		out := string(b)
		if first := mode + " [a b ] variable 0 0\n"; !strings.HasPrefix(out, first) {
			t.Errorf("does not begin with %q", first)
		}
		caps, _ := os.ReadFile("/proc/sys/kernel/cap_last_cap")
		last, _ := strconv.Atoi(strings.TrimSpace(string(caps)))
		all := fmt.Sprintf("%016x", uint64(1)<<(last+1)-1)
		want := []string{"CapPrm:\t" + all, "CapEff:\t" + all, "SigBlk:\t0000000000000000"}
		if mode == "single" {
			want = append(want, "\ndeny\n")
		} else {
			want = append(want, "\nallow\n", "\n         1 ")
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q", w)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	})
}

func TestMountInside(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		if out, err := command(t, mode, "mount").Output(); err != nil {
			t.Error(err, string(out))
		}
	})
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte("userns-test-inside")) {
		t.Error("the mount is seen outside")
	}
}

func TestChildIsNotInside(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		out, err := command(t, "single", "child").Output()
		if err != nil || string(out) != "child: exit status 7\n" {
			t.Errorf("%s, %v", out, err)
		}
	})
}

// Who sets the variable that marks the inner process is not believed.
func TestInsideIsNotASayingOfTheEnvironment(t *testing.T) {
	parent := strconv.Itoa(os.Getppid())
	for _, mode := range []string{"root", "chroot", "subids", "single", "", "x"} {
		t.Setenv("_BUILD_USERNS", mode+":"+parent)
		uidMap, _ := os.ReadFile("/proc/self/uid_map")
		if (mode == "subids" || mode == "single") && os.Getuid() == 0 && strings.TrimSpace(string(uidMap)) != "0          0 4294967295" {
			t.Skip("this is no host, but a user namespace already")
		}
		if m, inside := userns.Inside(); inside {
			t.Errorf("%s: it believes to be inside, in mode %v", mode, m)
		}
	}
}

func TestStandardInput(t *testing.T) {
	cmd := command(t, "single", "cat")
	cmd.Stdin = strings.NewReader("text")
	if out, err := cmd.Output(); err != nil || string(out) != "text" {
		t.Errorf("got %q, %v", out, err)
	}
}

// startAndWait starts the program that waits for a signal, and returns the pid of its inner process.
func startAndWait(t *testing.T, cmd *exec.Cmd) (out *bufio.Reader, inner int) {
	t.Helper()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if inner, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatal(err)
	}
	return out, inner
}

func TestSignalsArePassedOn(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		cmd := command(t, mode, "signal")
		out, _ := startAndWait(t, cmd)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if line, _ := out.ReadString('\n'); line != "terminated\n" {
			t.Errorf("got %q", line)
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 9 {
			t.Errorf("status %d", got)
		}
	})
}

func TestCancelledContextTerminates(t *testing.T) {
	cmd := command(t, "single", "signal")
	cmd.Env = append(cmd.Env, "USERNS_TEST_CANCEL=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := startAndWait(t, cmd)
	stdin.Close()
	if line, _ := out.ReadString('\n'); line != "terminated\n" {
		t.Errorf("got %q", line)
	}
	cmd.Wait()
}

// A Ctrl-C reaches both processes through the terminal, so the outer one must not pass it on.
func TestTerminalInterruptsOnce(t *testing.T) {
	master, terminal := openTerminal(t)
	cmd := command(t, "single", "signal")
	cmd.Stdin = terminal
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	out, _ := startAndWait(t, cmd)
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if line, _ := out.ReadString('\n'); line != "interrupt\n" {
		t.Errorf("got %q", line)
	}
	cmd.Process.Signal(syscall.SIGTERM) // goes the way of a second interrupt, and after it
	if line, _ := out.ReadString('\n'); line != "terminated\n" {
		t.Errorf("got %q", line)
	}
	cmd.Wait()
}

func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

func TestInnerDiesWithOuter(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		cmd := command(t, mode, "signal")
		_, inner := startAndWait(t, cmd)
		cmd.Process.Kill()
		cmd.Wait()
		if err := testkit.AwaitEnd(testkit.Patience(t), inner); err != nil {
			t.Errorf("process %d is still there: %v", inner, err)
			unix.Kill(inner, unix.SIGKILL)
		}
	})
}

func TestLimitOfNamespaces(t *testing.T) {
	line := "cannot create a user namespace: no space left on device | " +
		"user.max_user_namespaces is 0; try: sudo sysctl -w user.max_user_namespaces=15000\n"
	out, err := command(t, "subids", "limit").Output()
	if err != nil || string(out) != line+line {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestHelperIsMissing(t *testing.T) {
	cmd := command(t, "subids", "exit")
	cmd.Env = append(cmd.Env, "PATH=/nowhere")
	out, _ := cmd.Output()
	if !strings.HasSuffix(string(out), "hint: sudo apt install uidmap\n") {
		t.Errorf("%s", out)
	}
}

func TestDetect(t *testing.T) {
	mode, err := userns.Detect()
	if err != nil {
		t.Skip(err)
	}
	if os.Geteuid() == 0 && userns.Check(userns.Root) == nil && mode != userns.Root {
		t.Errorf("root is told %v", mode)
	}
	if _, inside := userns.Inside(); inside {
		t.Error("Inside without Enter")
	}
	if _, err := userns.Enter(t.Context(), userns.Root); err == nil {
		t.Error("Enter as root did something")
	}
}

// BenchmarkEnter starts the program, which enters and ends at once; /direct is the start alone.
func BenchmarkEnter(b *testing.B) {
	for _, mode := range []string{"single", "subids"} {
		b.Run(mode, func(b *testing.B) {
			for b.Loop() {
				if err := command(b, mode, "nothing").Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("/proc/self/exe", "-test.run=^$").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	for _, m := range userns.Modes() {
		out, err := command(t, "probe", m.String()).Output()
		want := "works\n"
		if m == userns.Root || m == userns.Chroot {
			want = "this process is not uid 0"
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%v as an ordinary user: %v: %s", m, err, out)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	// Root of a container may do all but mount: a namespace with all its ids is as good as root.
	for caps, works := range map[string]string{"": "root subids single chroot", "sys_admin": "subids single chroot", "sys_admin,setgid,sys_chroot": "single"} {
		args := []string{"/proc/self/exe", "all"}
		if caps != "" {
			bounding := "-" + strings.ReplaceAll(caps, ",", ",-")
			args = append([]string{"setpriv", "--bounding-set", bounding, "--inh-caps", bounding}, os.Args[0], "all")
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), modeVariable+"=probe")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); got != works {
			t.Errorf("root without %q: works %q, want %q (%v)", caps, got, works, err)
		}
	}
}

// Root of a user namespace whose mounts are those of another goes on to a namespace with its own, as after "unshare --user --map-root-user".
func TestMountsOfAnother(t *testing.T) {
	for flags, works := range map[uintptr]string{
		unix.CLONE_NEWUSER:                    "subids single chroot foreign mounts",
		unix.CLONE_NEWUSER | unix.CLONE_NEWNS: "root subids single chroot",
	} {
		cmd := exec.Command("/proc/self/exe", "all")
		cmd.Env = append(os.Environ(), modeVariable+"=probe")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  flags,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); got != works {
			t.Errorf("%#x: works %q, want %q (%v)", flags, got, works, err)
		}
	}
}

// Looking at the host leaves nothing open: a namespace that somebody holds does not end.
func TestFactsHoldNoNamespace(t *testing.T) {
	userns.Gather()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "user:") || strings.HasPrefix(to, "mnt:") {
			t.Errorf("descriptor %s is %s", fd.Name(), to)
		}
	}
}
