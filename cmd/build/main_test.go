package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/testkit"
)

// TestMain makes this test program three others: a sandbox's child, and by its name, under which the scripts find
// it, the command itself or a helper of the scripts. So scripts run the real main, and with
// -race or -cover that is what they run.
func TestMain(m *testing.M) {
	sandbox.Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race test takes a second to end
	// Scripts wait for other processes more than they work. The command line still wins.
	if f := flag.Lookup("test.parallel"); f != nil {
		f.Value.Set("4")
	}
	testscript.Main(m, map[string]func(){
		mainVerb:      main,
		"exits":       exits,
		"on-terminal": onTerminal,
		removeStore:   remove,
		installFaults: withFaults,
	})
}

// TestScripts runs testdata/script: as root and as an ordinary user, or, when it is not run by root, as who runs it.
func TestScripts(t *testing.T) {
	scripts := os.Getenv("BUILD_TEST_SCRIPTS") // set for the ordinary user
	if scripts == "" {
		scripts = "testdata/script"
	}
	if os.Geteuid() != 0 {
		t.Run("user", func(t *testing.T) { runScripts(t, scripts) })
		return
	}
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		runScripts(t, scripts)
	})
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		asOrdinaryUser(t, scripts)
	})
}

// asOrdinaryUser runs this test program again, with what it needs in a folder that everybody can read: the
// checkout and the program may be in root's home.
func asOrdinaryUser(t *testing.T, scripts string) {
	u, dir := testkit.OrdinaryUser(t), testkit.OpenDir(t)
	program := testkit.Program(t, dir)
	if err := os.CopyFS(filepath.Join(dir, "script"), os.DirFS(scripts)); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^TestScripts$"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	for _, name := range []string{"run", "timeout"} { // the same scripts as here, and as long
		if f := flagValue("test." + name); f != "" {
			args = append(args, "-test."+name+"="+f)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BUILD_TEST_SCRIPTS="+filepath.Join(dir, "script"), smallDisk+"="+makeSmallDisk(t, int(u.Uid)))
	u.Become(cmd)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as %s: %v\n%s", u.Name, err, out)
	} else if testing.Verbose() {
		t.Logf("as %s:\n%s", u.Name, out)
	}
}

// smallDisk names the variable that holds a small file system, for the scripts that fill it.
const smallDisk = "BUILD_TEST_SMALL_DISK"

// makeSmallDisk returns an empty file system of a few MB that belongs to a user.
func makeSmallDisk(t *testing.T, uid int) string {
	dir := testkit.OpenDir(t)
	options := fmt.Sprintf("size=6m,mode=755,uid=%d", uid)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		t.Logf("no small disk: %v", err) // in a container without the privilege
		return ""
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func runScripts(t *testing.T, scripts string) {
	disk := os.Getenv(smallDisk)
	if os.Geteuid() == 0 {
		disk = makeSmallDisk(t, 0)
	}
	p := testscript.Params{
		Dir:         scripts,
		WorkdirRoot: testkit.OpenDir(t),
		Setup:       func(env *testscript.Env) error { return setup(env, disk) },
		Cmds:        commands,
		Condition:   func(name string) (bool, error) { return condition(name, disk) },
	}
	if deadline, ok := t.Deadline(); ok {
		p.Deadline = deadline
	}
	testscript.Run(t, p)
}

// flagValue returns a flag that was given to this test program.
func flagValue(name string) string {
	if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
		return strings.TrimSpace(f.Value.String())
	}
	return ""
}
