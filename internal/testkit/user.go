package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/seed0570efb0/build/internal/userns"
)

// Ordinary is the name of the user that tests become when root runs them.
const Ordinary = "buildtest"

// A User is somebody whom root can become.
type User struct {
	syscall.Credential
	Name, Home string
}

// OrdinaryUser returns the user Ordinary, who is made when there is none: useradd gives subordinate ids as well. The
// test is skipped where nobody can be made.
func OrdinaryUser(t testing.TB) *User {
	t.Helper()
	u, err := user.Lookup(Ordinary)
	if err != nil {
		out, failed := exec.Command("useradd", "--create-home", Ordinary).CombinedOutput()
		if u, err = user.Lookup(Ordinary); err != nil { // another test may have been faster
			t.Skipf("cannot make the user %s: %v: %s", Ordinary, failed, out)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &User{syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, u.Username, u.HomeDir}
}

// Run runs the tests of a package that gives files to root, and to others: where nobody but root may, in a user namespace, as a build
// of an ordinary user does. It returns an exit status; without namespaces there is nothing to run.
func Run(m *testing.M) int {
	if _, inside := userns.Inside(); inside || os.Geteuid() == 0 {
		return m.Run()
	}
	mode, err := userns.Detect()
	if err == nil {
		var status int
		if status, err = userns.Enter(context.Background(), mode); err == nil {
			return status
		}
	}
	fmt.Println("SKIP: files cannot be given to root here:", err)
	return 0
}

// Become has cmd run as u, in addition to what its environment is set to.
func (u *User) Become(cmd *exec.Cmd) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &u.Credential
}

// Dir makes the folder dir, which belongs to u.
func (u *User) Dir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(u.Uid), int(u.Gid)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// OpenDir returns a new folder that every user can enter; those of testing.T are closed to others. It goes when the
// test ends.
func OpenDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != filepath.Clean(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Program copies this test program into dir, an open one, as others cannot run it where go test made it.
func Program(t testing.TB, dir string) string {
	t.Helper()
	program := filepath.Join(dir, filepath.Base(os.Args[0]))
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(program, 0o755) // whatever the umask
	}
	if err != nil {
		t.Fatal(fmt.Errorf("copy this program: %w", err))
	}
	return program
}
