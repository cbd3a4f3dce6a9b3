package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A checkout is a clone of a commit, and somebody who builds it.
type checkout struct {
	t     *testing.T
	dir   string // of the clone
	store string
	env   []string
	user  *testkit.User // nil for who runs the test
}

// clone clones a repository under a umask.
func (c *checkout) clone(repo, umask string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(c.dir), 0o755); err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "umask "+umask+` && exec git -c safe.directory=* clone -q "$0" "$1"`, repo, c.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("git clone: %v: %s", err, out)
	}
}

// run runs a command under a umask, and returns all that it prints.
func (c *checkout) run(umask string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", "umask " + umask + ` && exec "$0" "$@"`}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), append([]string{"BUILD_ROOT=" + c.store, "SOURCE_DATE_EPOCH=1700000000"}, c.env...)...)
	if c.user != nil {
		c.user.Become(cmd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// own gives the clone to somebody.
func (c *checkout) own(uid int) {
	c.t.Helper()
	err := filepath.WalkDir(c.dir, func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(p, uid, uid)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// keys are the names of all keys in the store.
func (c *checkout) keys() (keys []string) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.store, "index/*/*"))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("%d keys, %v", len(files), err)
	}
	for _, f := range files {
		keys = append(keys, strings.TrimPrefix(f, c.store))
	}
	return keys
}

// otherDisk returns a folder on another file system, which lists names in another order, where there is one.
func otherDisk(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "build-test-")
	if err != nil {
		return testkit.OpenDir(t)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// programs returns a folder with the command and its helpers that every user may run.
func programs(t *testing.T) string {
	dir := testkit.OpenDir(t)
	program := testkit.Program(t, dir)
	for _, name := range []string{mainVerb, removeStore} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ownModes is a Dockerfile that leaves nothing to the modes of the checkout.
const ownModes = `FROM REG/base
WORKDIR /app
COPY --chmod=u=rwX,go=rX src src
COPY --chmod=0644 one.txt /one.txt
RUN find . /one.txt | sort | xargs stat -c '%a %u %n' > /list && id -u > /id
COPY --chmod=755 --from=REG/base /bin/busybox /copied
`

// The same commit has the same keys and gives the same bytes wherever it is checked out: at another path, for another user, under
// another umask, at another time in another time zone, on a file system with another order of names, with other isolation.
func TestCheckouts(t *testing.T) {
	repo, one, two := cloned(t, ownModes)
	one.clone(repo, "022")
	two.clone(repo, "077")
	two.env = []string{"TZ=Asia/Kathmandu", "LC_ALL=tr_TR.UTF-8"}
	archive := []string{"build", "-q", "-t", "app", "-o", "type=image,rewrite-timestamp=true", "-o", "type=oci,rewrite-timestamp=true,dest=" + filepath.Join(one.store, "..", "one.tar"), "."}
	id := one.run("022", archive...)
	for _, args := range [][]string{{"touch", "-d", "2030-01-01", "src", "one.txt", "Dockerfile", "src/file1.txt"}, {"build", "-q", "-t", "app", "-o", "type=image,rewrite-timestamp=true", "."}} {
		out := two.run("077", args...)
		if args[0] == "build" && out != id {
			t.Errorf("the image is %s, and that of the other checkout %s", out, id)
		}
	}
	if out := two.run("077", "build", "-t", "app", "."); strings.Count(out, " CACHED") != 7 {
		t.Errorf("not every step is reused:\n%s", out)
	}
	if os.Geteuid() != 0 {
		return // another user is somebody whom only root can become
	}
	two.user = testkit.OrdinaryUser(t)
	two.env = append(two.env, "PATH="+programs(t)+":"+os.Getenv("PATH"))
	two.own(int(two.user.Uid))
	two.store = filepath.Join(two.user.Dir(t, filepath.Join(filepath.Dir(two.dir), "home")), "store")
	t.Cleanup(func() {
		c := &checkout{t: t, dir: "/", store: two.store, user: two.user, env: two.env}
		c.run("022", removeStore, two.store)
	})
	if out := two.run("077", "build", "-q", "-t", "app", "-o", "type=image,rewrite-timestamp=true", "-o", "type=oci,rewrite-timestamp=true,dest=../home/two.tar", "."); out != id {
		t.Errorf("another user's image is %s, want %s", out, id)
	}
	if d := cmp.Diff(one.keys(), two.keys()); d != "" {
		t.Errorf("another user's keys:\n%s", d)
	}
	files := []string{filepath.Join(one.store, "..", "one.tar"), filepath.Join(filepath.Dir(two.dir), "home/two.tar")}
	if out, err := exec.Command("cmp", files...).CombinedOutput(); err != nil {
		t.Errorf("the archives: %v: %s", err, out)
	}
}

// Where the Dockerfile leaves modes to the checkout, a umask makes a difference, and is named.
func TestCheckoutsWithoutChmod(t *testing.T) {
	repo, one, two := cloned(t, "FROM REG/base\nCOPY src src\nRUN true\n")
	one.clone(repo, "022")
	two.clone(repo, "077")
	one.run("022", "build", "-q", "-t", "app", ".")
	two.run("022", "build", "-q", "-t", "app", ".")
	out := two.run("022", "build", "why")
	for _, want := range []string{`COPY src src: src/file0\.txt 0644 -> 0600, .*28 more changed`, `RUN true: input .*COPY src src changed`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s is not named:\n%s", want, out)
		}
	}
	two.run("022", "sh", "-c", "find src -type d -exec chmod 755 {} + && chmod -R u=rwX,go=rX src")
	if out := two.run("022", "build", "-t", "app", "."); strings.Count(out, " CACHED") != 4 {
		t.Errorf("with the modes of the first checkout:\n%s", out)
	}
}

// cloned returns a repository with a Dockerfile, and two checkouts to be, with a store for both.
func cloned(t *testing.T, dockerfile string) (repo string, one, two *checkout) {
	host := testkit.Registry(t)
	testkit.PushImage(t, host, "base:latest", testkit.Busybox(t))
	base := testkit.OpenDir(t)
	repo = filepath.Join(base, "repo")
	files := []string{"Dockerfile", strings.ReplaceAll(dockerfile, "REG", host), ".dockerignore", ".git\n", "one.txt", "one\n", "src/run.sh", "#!/bin/sh\n"}
	for i := range 30 {
		files = append(files, fmt.Sprintf("src/file%d.txt", i), fmt.Sprint(i))
	}
	if err := os.MkdirAll(filepath.Join(repo, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.GitRepo(t, repo, files...)
	if err := os.Chmod(filepath.Join(repo, "src/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.GitCommit(t, repo)
	store := filepath.Join(base, "store")
	t.Cleanup(func() {
		c := &checkout{t: t, dir: base, store: store}
		c.run("022", removeStore, store)
	})
	return repo, &checkout{t: t, dir: filepath.Join(base, "one"), store: store}, &checkout{t: t, dir: filepath.Join(otherDisk(t), "deep/er/two"), store: store}
}
