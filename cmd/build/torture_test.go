package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/testkit"
)

// killsVariable says how many commands TestKill kills.
const killsVariable = "BUILD_TEST_KILLS"

// seedVariable repeats the choices of an earlier run.
const seedVariable = "BUILD_TEST_SEED"

// environmentNumber returns a number that a variable of the environment gives, or another one.
func environmentNumber(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestKill kills builds, exports and prunes at random moments. After each the next build is right, what has a name is whole,
// nothing in the store is damaged, and nothing is left of the killed one.
func TestKill(t *testing.T) {
	kills := environmentNumber(t, killsVariable, 24)
	seed := environmentNumber(t, seedVariable, rand.IntN(1<<30))
	t.Logf("%s=%d", seedVariable, seed)
	v := newVictim(t, rand.New(rand.NewPCG(uint64(seed), 0)))
	v.must("build", "-q", "-t", "kept", "--build-arg", "N=kept", v.context)
	for i := range kills {
		v.round(i)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of %d commands were killed before they were done", v.killed, kills)
	if v.killed == 0 {
		t.Error("no command was killed")
	}
}

// A victim is a store in which commands are killed.
type victim struct {
	t       *testing.T
	random  *rand.Rand
	dir     string // of everything
	context string
	// registry is where the base image is.
	registry string
	env      []string
	user     *syscall.Credential // of its commands; nil for that of this process
	events   map[string]int      // how often each kind of command changes the store until it is done
	killed   int
}

func newVictim(t *testing.T, random *rand.Rand) *victim {
	return newVictimIn(t, random, testkit.OpenDir(t))
}

// newVictimOf is newVictim for another user, whom root becomes.
func newVictimOf(t *testing.T, random *rand.Rand, u *testkit.User) *victim {
	open := testkit.OpenDir(t)
	program := testkit.Program(t, open) // this one may be in a folder of root's
	for _, name := range []string{mainVerb, removeStore} {
		if err := os.Link(program, filepath.Join(open, name)); err != nil {
			t.Fatal(err)
		}
	}
	v := newVictimIn(t, random, u.Dir(t, filepath.Join(open, "dir")))
	v.user, v.env = &u.Credential, append(v.env, "PATH="+open+":"+os.Getenv("PATH"))
	for _, dir := range []string{v.store(), v.store("tmp")} {
		if err := os.Chown(dir, int(u.Uid), int(u.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func newVictimIn(t *testing.T, random *rand.Rand, dir string) *victim {
	host := testkit.Registry(t)
	ref := testkit.PushImage(t, host, "busybox:latest", testkit.Busybox(t))
	v := &victim{t: t, random: random, dir: dir, context: filepath.Join(dir, "context"), registry: host, events: map[string]int{}}
	v.env = append(os.Environ(), "BUILD_ROOT="+filepath.Join(dir, "store"), "HOME="+dir, "DOCKER_CONFIG="+dir)
	dockerfile := fmt.Sprintf(`FROM %[1]s AS a
ARG N
COPY f /in/
RUN echo $N | cat - /in/f > /a && dd if=/dev/zero of=/zeros bs=64k count=16
RUN mkdir -p /d/e && cp /a /d/e/a
FROM %[1]s AS b
ARG N
RUN --mount=type=cache,target=/c echo $N > /c/n && echo b-$N > /b
FROM %[1]s
COPY --from=a /d /d
COPY --link --from=b /b /b
RUN cat /d/e/a /b > /result
CMD cat /result
`, ref)
	if err := errors.Join(os.MkdirAll(v.context, 0o755), os.WriteFile(v.context+"/Dockerfile", []byte(dockerfile), 0o644),
		os.WriteFile(v.context+"/f", []byte("file\n"), 0o644), os.MkdirAll(v.store("tmp"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(removeStore, v.store()).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", removeStore, err, out)
		}
	})
	return v
}

func (v *victim) store(elem ...string) string {
	return filepath.Join(append([]string{v.dir, "store"}, elem...)...)
}

func (v *victim) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(v.t.Context(), args[0], args[1:]...)
	cmd.Env, cmd.Dir = v.env, v.dir
	if v.user != nil {
		cmd.Path, cmd.Err = filepath.Join(filepath.Dir(v.dir), args[0]), nil
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: v.user}
	}
	return cmd
}

// must runs a command and returns its standard output.
func (v *victim) must(args ...string) string {
	v.t.Helper()
	cmd := v.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		v.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// round kills one command and looks at what is left.
func (v *victim) round(i int) {
	n := strconv.Itoa(i)
	commands := map[string][]string{
		"build":  {"build", "-q", "-t", "app", "--build-arg", "N=" + n, v.context},
		"export": {"build", "-q", "-o", "type=oci,dest=" + v.dir + "/out.tar", "--build-arg", "N=" + n, v.context},
		"limit":  {"build", "-q", "--cache-limit", "6m", "--build-arg", "N=" + n, v.context},
		"prune":  {"build", "prune", "-f", "-a"},
		"fsck":   {"build", "fsck", "--repair"},
	}
	names := []string{"build", "export", "limit", "prune", "fsck"}
	name := names[v.random.IntN(len(names))]
	var beside *exec.Cmd // a build that is not killed must not notice
	if v.random.IntN(3) == 0 {
		beside = v.command("build", "-q", "--build-arg", "N=beside-"+n, v.context)
		beside.Stderr = &bytes.Buffer{}
		if err := beside.Start(); err != nil {
			v.t.Fatal(err)
		}
	}
	v.kill(name, v.command(commands[name]...))
	if beside != nil {
		if err := beside.Wait(); err != nil {
			v.t.Fatalf("a build beside %s: %v\n%s", name, err, beside.Stderr)
		}
	}
	v.nothingLeft("while nothing runs", false)
	v.must("build", "-q", "-t", "app", "--build-arg", "N="+n, v.context)
	if got, want := v.must("build", "run", "app"), n+"\nfile\nb-"+n+"\n"; got != want {
		v.t.Errorf("%s was killed: the next build gives %q, want %q", name, got, want)
	}
	if got, want := v.must("build", "run", "kept"), "kept\nfile\nb-kept\n"; got != want {
		v.t.Errorf("%s was killed: what has a name is %q, want %q", name, got, want)
	}
	v.must("build", "fsck")
	v.nothingLeft(name+" was killed", true)
}

// kill runs a command and kills it after a random number of changes in the store.
func (v *victim) kill(name string, cmd *exec.Cmd) {
	w := watch(v.t, v.store())
	defer w.Close()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); w.stop() }()
	most := max(v.events[name], 100)
	at, n := v.random.IntN(most), 0
	for more := true; more && n < at; {
		var k int
		k, more = w.next()
		n += k
	}
	cmd.Process.Kill()
	var exit *exec.ExitError
	switch err := <-ended; {
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		v.killed++
	case err != nil:
		v.t.Fatalf("%s: %v\n%s", name, err, &out)
	default:
		v.events[name] = n // it was faster
	}
}

// nothingLeft checks for mounts, waits for the end of processes and, when a build has tidied since, looks for temporary files.
func (v *victim) nothingLeft(when string, tidied bool) {
	v.t.Helper()
	testkit.AwaitNone(v.t, func(proc string) bool {
		return testkit.ProcHolds(proc+"/environ", v.store()) || testkit.ProcHolds(proc+"/mountinfo", v.store()) || testkit.ProcOpens(proc, v.store())
	})
	if !tidied {
		return
	}
	for _, dir := range []string{"tmp", "locks"} {
		left, err := os.ReadDir(v.store(dir))
		if err != nil || len(left) > 0 {
			v.t.Errorf("%s: %s has %v, %v", when, dir, left, err)
		}
	}
}

// A watcher tells that something in a folder has changed.
type watcher struct {
	*os.File
	fd   int // Fd would make it blocking
	dirs map[int32]string
}

// watch watches a store, but for what is in trees.
func watch(t *testing.T, root string) *watcher {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{File: os.NewFile(uintptr(fd), "inotify"), fd: fd, dirs: map[int32]string{}}
	w.add(root, 0)
	return w
}

// deepest is how deep the folders are that are watched.
const deepest = 3

func (w *watcher) add(dir string, depth int) {
	wd, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_ONLYDIR)
	if err != nil {
		return // it is gone again
	}
	w.dirs[int32(wd)] = dir
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() && depth < deepest && e.Type()&fs.ModeSymlink == 0 {
			w.add(filepath.Join(dir, e.Name()), depth+1)
		}
	}
}

// next waits for changes and returns how many there are; more is false after stop.
func (w *watcher) next() (n int, more bool) {
	buf := make([]byte, 64<<10)
	size, err := w.Read(buf)
	if err != nil {
		return 0, false
	}
	for b := buf[:size]; len(b) >= unix.SizeofInotifyEvent; n++ {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		if mask&unix.IN_ISDIR != 0 && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			dir := filepath.Join(w.dirs[wd], name)
			w.add(dir, strings.Count(strings.TrimPrefix(dir, w.dirs[1]), "/"))
		}
		b = b[end:]
	}
	return n, true
}

// stop makes next return.
func (w *watcher) stop() { w.SetReadDeadline(time.Unix(1, 0)) }
