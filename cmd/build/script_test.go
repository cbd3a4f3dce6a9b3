package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/go-units"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
)

// tbKey is the key of a script's testing.TB.
type tbKey struct{}

func tb(ts *testscript.TestScript) testing.TB { return ts.Value(tbKey{}).(testing.TB) }

// setup gives a script a store, a home and a registry of its own.
//
//	$WEB              a server of files and git repositories: see web
//	$REGISTRY         host and port of a registry that holds busybox:latest
//	$BUILD_ROOT       the store, which is empty
//	$SMALL_DISK       a file system of 6 MB, or nothing where none can be mounted; one script may use it
//	$DOCKER_CONFIG    a folder for credentials, which is missing
func setup(env *testscript.Env, disk string) error {
	t := env.T().(testing.TB)
	r := newRegistry(t)
	env.Values[registryKey{}] = r
	env.Values[tbKey{}] = t
	newWeb(env)
	home := filepath.Join(env.WorkDir, ".home")
	store := filepath.Join(env.WorkDir, ".store")
	for k, v := range map[string]string{
		"REGISTRY": r.host, "BUILD_ROOT": store, "SMALL_DISK": disk,
		"HOME": home, "DOCKER_CONFIG": filepath.Join(home, ".docker"),
		"GORACE": os.Getenv("GORACE"),
	} {
		env.Setenv(k, v)
	}
	env.Defer(func() {
		if out, err := exec.Command(removeStore, store).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", removeStore, err, out)
		}
	})
	return os.Mkdir(home, 0o755)
}

// condition knows what scripts may depend on.
func condition(name, disk string) (bool, error) {
	switch name {
	case "small-disk":
		return disk != "", nil
	case "root":
		return os.Geteuid() == 0, nil
	case "cgroup":
		l := sandbox.Limits{Memory: 1 << 30, PIDs: 100}
		_, not := l.Enforce()
		return len(not) == 0, nil
	case "userns":
		_, err := userns.Detect()
		return err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// commands are what scripts have beside the commands of testscript.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"registry":     registryCommand,
	"web":          webCommand,
	"repo":         repoCommand,
	"git":          gitCommand,
	"nothing-left": nothingLeft,
	"no-process":   noProcessLeft,
	"tar":          makeTar,
	"tree":         makeTree,
	"layout":       makeLayout,
	"flip":         flip,
	"list":         list,
	"signal":       sendSignal,
	"restart":      restart,
	"below":        below,
	"tamper":       tamper,
}

// nothingLeft checks that the builds of a script left no process, no mount and no temporary file. What was killed
// together with a build may still be about to end.
func nothingLeft(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: nothing-left")
	}
	noProcessLeft(ts, false, nil)
	left, err := os.ReadDir(filepath.Join(ts.Getenv("BUILD_ROOT"), "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		ts.Fatalf("%v", err)
	}
	for _, e := range left {
		ts.Fatalf("tmp/%s is left in the store", e.Name())
	}
}

// noProcessLeft checks for mounts and waits for the end of processes only: by their arguments, their environment, or
// their mounts, of which sandboxes have some from the store. What a killed build wrote stays until the next one, which
// must not start before it is dead.
func noProcessLeft(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: no-process")
	}
	work := ts.Getenv("WORK")
	if testkit.ProcHolds("/proc/self/mountinfo", work) {
		ts.Fatalf("a mount is left below %s", work)
	}
	// The mount points in mountinfo are relative to their file system: the end of the path is always there.
	end := filepath.Join(filepath.Base(filepath.Dir(work)), filepath.Base(work))
	testkit.AwaitNone(tb(ts), func(proc string) bool {
		return testkit.ProcHolds(proc+"/cmdline", work) || testkit.ProcHolds(proc+"/environ", work) || testkit.ProcHolds(proc+"/mountinfo", end)
	})
}

// makeTar is "tar FILE SPEC...", with the specs of testkit.Tar.
func makeTar(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), testkit.Tar(tb(ts), args[1:]...), 0o644))
}

// makeTree is "tree FOLDER SPEC...", with the specs of testkit.Tree.
func makeTree(ts *testscript.TestScript, neg bool, args []string) {
	testkit.Tree(tb(ts), ts.MkAbs(args[0]), args[1:]...)
}

// makeLayout is "layout FOLDER TAG": it writes the base image as an OCI layout.
func makeLayout(ts *testscript.TestScript, neg bool, args []string) {
	dir := testkit.OCILayout(tb(ts), testkit.Busybox(tb(ts)), args[1])
	ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(dir)))
}

// below is "below SIZE": it checks what the store takes of the disk.
func below(ts *testscript.TestScript, neg bool, args []string) {
	limit, err := units.RAMInBytes(args[0])
	ts.Check(err)
	total, err := cache.DiskUsage(ts.Getenv("BUILD_ROOT"))
	ts.Check(err)
	if neg || total > limit {
		ts.Fatalf("the store takes %d bytes, more than %s", total, args[0])
	}
}

// tamper changes b.txt in the tree of the layer that has it.
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.Getenv("BUILD_ROOT"), "layers/*/*/*@*/b.txt"))
	ts.Check(err)
	if neg || len(args) > 0 || len(files) != 1 {
		ts.Fatalf("usage: tamper, after a step that has made b.txt")
	}
	ts.Check(damage(files[0], false))
}

// restart makes the store look as if the machine had been started again since: the trees of layers say in which boot
// they were made.
func restart(ts *testscript.TestScript, neg bool, args []string) {
	trees, err := filepath.Glob(filepath.Join(ts.Getenv("BUILD_ROOT"), "layers/*/*/*@*"))
	ts.Check(err)
	if len(trees) == 0 || len(args) > 0 {
		ts.Fatalf("usage: restart, after a build that has made trees")
	}
	for _, tree := range trees {
		if name, boot, _ := strings.Cut(tree, "@"); boot != "before" {
			ts.Check(os.Rename(tree, name+"@before"))
		}
	}
}

// flip is "flip FILE...": it changes a bit in the middle of each file; "flip -cut FILE..." halves them. A folder
// stands for all files in it, except for the trees of layers, whose files are not read back.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	cut := args[0] == "-cut"
	if cut {
		args = args[1:]
	}
	changed := 0
	for _, arg := range args {
		err := filepath.WalkDir(ts.MkAbs(arg), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "tree") {
				return fs.SkipDir
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			changed++
			return damage(p, cut)
		})
		ts.Check(err)
	}
	if changed == 0 {
		ts.Fatalf("there is no file in %s", args)
	}
}

func damage(file string, cut bool) error {
	b, err := os.ReadFile(file)
	if err != nil || len(b) == 0 {
		return err
	}
	if cut {
		return os.Truncate(file, int64(len(b)/2))
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	middle := len(b) / 2
	_, err = f.WriteAt([]byte{b[middle] ^ 1}, int64(middle))
	return err
}

// list is "list FOLDER|ARCHIVE": it prints what is there as testkit lists it.
func list(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	fi, err := os.Stat(path)
	ts.Check(err)
	if fi.IsDir() {
		fmt.Fprint(ts.Stdout(), testkit.ListDir(tb(ts), path))
		return
	}
	f, err := os.Open(path)
	ts.Check(err)
	defer f.Close()
	fmt.Fprint(ts.Stdout(), testkit.ListTar(tb(ts), f))
}

// sendSignal is "signal HUP": it sends a signal to the background command that was started last. The
// command kill of testscript knows INT and KILL only.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	cmds := ts.BackgroundCmds()
	if len(cmds) == 0 || len(args) != 1 {
		ts.Fatalf("usage: signal NAME, with a command in the background")
	}
	ts.Check(cmds[len(cmds)-1].Process.Signal(unix.SignalNum("SIG" + args[0])))
}
