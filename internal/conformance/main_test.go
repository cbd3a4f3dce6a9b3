package conformance

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
)

var update = flag.Bool("update", false, "write expect.txt of the cases")

// work is a folder that every user can read, for all that the tests make. The binary is in it.
var work string

func TestMain(m *testing.M) {
	flag.Parse()
	syscall.Umask(0o022)
	os.Exit(setUp(m.Run))
}

func setUp(run func() int) int {
	var err error
	if work, err = os.MkdirTemp("", "conformance-"); err == nil {
		err = os.Chmod(work, 0o755) // the folders of testing.T are for their owner alone
	}
	if err == nil {
		err = goBuild(filepath.Join(work, "build"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return run()
}

func goBuild(binary string) error {
	c := exec.Command("go", "build", "-o", binary, "../../cmd/build")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// An account is a user who builds, with a store of their own.
type account struct {
	name string
	cred *syscall.Credential // nil: the one who runs the tests
	home string
}

// accounts returns the users to build as: whoever runs the tests and, if that is root, an ordinary user.
func accounts(t *testing.T) []*account {
	t.Helper()
	self := newAccount(t, "self", nil)
	if os.Geteuid() != 0 {
		return []*account{self}
	}
	self.name = "root"
	u := testkit.OrdinaryUser(t)
	return []*account{self, newAccount(t, u.Name, &u.Credential)}
}

func newAccount(t *testing.T, name string, cred *syscall.Credential) *account {
	t.Helper()
	a := &account{name: name, cred: cred, home: tempDir(t)}
	if cred != nil {
		if err := os.Chown(a.home, int(cred.Uid), int(cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// command returns the command line "build args..." as a sees it.
func (a *account) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(work, "build"), args...)
	c.Dir = a.home
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + a.home, "BUILD_ROOT=" + filepath.Join(a.home, "store")}
	if a.cred != nil {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: a.cred}
	}
	return c
}

// build runs "build args..." and returns its standard output.
func (a *account) build(t *testing.T, args ...string) string {
	t.Helper()
	return output(t, a.command(args...))
}

// output runs c, which must not fail, and returns its standard output.
func output(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", c, err, &stdout, &stderr)
	}
	return stdout.String()
}

// tempDir returns a new folder below work that every user can read. It is gone when the test ends.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(work, strings.NewReplacer("/", "-", "$", "").Replace(t.Name())+"-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir) })
	return dir
}

// remove removes dir. What an ordinary user's builds made may be owned by subordinate ids, which can be
// removed only where they mean somebody.
func remove(t *testing.T, dir string) {
	t.Helper()
	err := os.RemoveAll(dir)
	if err != nil && os.Geteuid() != 0 {
		err = exec.Command("unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", dir).Run()
	}
	if err != nil {
		t.Errorf("something is left behind: %v", err)
	}
}

// base returns the OCI layout of the base image that the cases call busybox.
func base(t *testing.T) string {
	t.Helper()
	img := testkit.Busybox(t)
	baseOnce.Do(func() {
		dir := filepath.Join(work, "busybox")
		if err := os.CopyFS(dir, os.DirFS(testkit.OCILayout(t, img, "latest"))); err != nil {
			t.Fatal(err)
		}
	})
	return filepath.Join(work, "busybox")
}

var baseOnce sync.Once

// need skips a test for which a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}
