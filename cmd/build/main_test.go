package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
)

// TestMain makes this test program three others: a sandbox's child, and by its name, under which the scripts find
// it, the command itself or a helper of the scripts. So scripts run the real main, and with
// -race or -cover that is what they run.
func TestMain(m *testing.M) {
	sandbox.Main()
	// Scripts wait for other processes more than they work. The command line still wins.
	if f := flag.Lookup("test.parallel"); f != nil {
		f.Value.Set("4")
	}
	testscript.Main(m, map[string]func(){
		mainVerb:      main,
		"exits":       exits,
		"on-terminal": onTerminal,
		removeStore:   remove,
	})
}

// ordinary is the user that scripts run as when the tests run as root.
const ordinary = "buildtest"

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
	t.Run("root", func(t *testing.T) { runScripts(t, scripts) })
	t.Run("user", func(t *testing.T) { asOrdinaryUser(t, scripts) })
}

// asOrdinaryUser runs this test program again, with what it needs in a folder that everybody can read: the
// checkout and the program may be in root's home.
func asOrdinaryUser(t *testing.T, scripts string) {
	credential, home := ordinaryUser(t)
	dir := openDir(t)
	program := filepath.Join(dir, "build.test")
	if err := errors.Join(os.CopyFS(filepath.Join(dir, "script"), os.DirFS(scripts)), copyProgram(program)); err != nil {
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
	cmd.Env = append(os.Environ(), "HOME="+home, "USER="+ordinary, "LOGNAME="+ordinary, "BUILD_TEST_SCRIPTS="+filepath.Join(dir, "script"),
		smallDisk+"="+makeSmallDisk(t, int(credential.Uid)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as %s: %v\n%s", ordinary, err, out)
	} else if testing.Verbose() {
		t.Logf("as %s:\n%s", ordinary, out)
	}
}

// copyProgram writes this program to a file that everybody may run.
func copyProgram(dst string) error {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(dst, b, 0o755), os.Chmod(dst, 0o755))
}

// ordinaryUser returns the ordinary user, who is made when there is none.
func ordinaryUser(t *testing.T) (*syscall.Credential, string) {
	u, err := user.Lookup(ordinary)
	if err != nil {
		if out, err := exec.Command("useradd", "--create-home", ordinary).CombinedOutput(); err != nil {
			t.Skipf("cannot make the user %s: %v: %s", ordinary, err, out)
		}
		if u, err = user.Lookup(ordinary); err != nil {
			t.Skip(err)
		}
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, u.HomeDir
}

// openDir returns a new folder that other users can enter; those of t.TempDir are closed to them.
func openDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "build-scripts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cache.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// smallDisk names the variable that holds a small file system, for the scripts that fill it.
const smallDisk = "BUILD_TEST_SMALL_DISK"

// makeSmallDisk returns an empty file system of a few MB that belongs to a user.
func makeSmallDisk(t *testing.T, uid int) string {
	dir := openDir(t)
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
		WorkdirRoot: openDir(t),
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
