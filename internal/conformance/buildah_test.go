package conformance

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/testkit"
)

// TestBuildah builds every case with buildah as well, and compares the images. A difference that
// differences.txt does not list fails, and so does one that is listed and does not show.
func TestBuildah(t *testing.T) {
	need(t, "buildah", "runc")
	storage := newContainers(t)
	output(t, storage.buildah("pull", "oci:"+base(t)+":latest"))
	output(t, storage.buildah("tag", imageID(t, storage), "localhost/busybox:latest"))
	known := readDifferences(t)
	us, list := accounts(t)[0], cases(t)
	t.Run("cases", func(t *testing.T) {
		for _, c := range list {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				ours, theirs := c.ourFacts(t, us), c.buildahFacts(t, storage)
				for _, key := range differing(ours, theirs) {
					if !known.has(c.name, key) {
						t.Errorf("%s\n  ours:    %s\n  buildah: %s", key, ours[key], theirs[key])
					}
				}
			})
		}
	})
	for _, d := range known.unseen() {
		t.Errorf("differences.txt:%d: %s %s: there is no such difference", d.line, d.name, d.key)
	}
}

// facts are what is compared. The value of what an image does not have is "".
type facts map[string]string

// differing returns the keys whose values differ. Where one build failed, that is all there is to say.
func differing(a, b facts) []string {
	if a["build"] != b["build"] {
		return []string{"build"}
	}
	keys := maps.Clone(a)
	maps.Copy(keys, b)
	maps.DeleteFunc(keys, func(k, _ string) bool { return a[k] == b[k] })
	return slices.Sorted(maps.Keys(keys))
}

// imageFacts returns all that is compared of an image: what a word of the config says, and the files, as "file /path".
func imageFacts(t *testing.T, img v1.Image) facts {
	t.Helper()
	out := facts{}
	for _, f := range configFacts(t, img) {
		if f.key == "ExposedPort" || f.key == "Volume" {
			f = fact{f.String(), "yes"}
		}
		out[f.key] = f.value
	}
	if out["WorkingDir"] == "/" {
		delete(out, "WorkingDir") // none means the same
	}
	for line := range strings.Lines(testkit.ListImage(t, img)) {
		out["file /"+pathOf(line)] = strings.TrimSuffix(line, "\n")
	}
	return out
}

// failed are the facts of a build that ended with an error, whatever it said.
var failed = facts{"build": "fails"}

func (c *buildCase) ourFacts(t *testing.T, a *account) facts {
	archive := filepath.Join(a.home, c.name+".tar")
	if err := c.build(t, a, archive).Run(); err != nil {
		return failed
	}
	return imageFacts(t, openArchive(t, archive))
}

func (c *buildCase) buildahFacts(t *testing.T, storage *containers) facts {
	// One layer for a stage: with --layers buildah takes half as long again, and makes a WORKDIR only for a step that needs it.
	args := []string{"build", "--no-cache", "--format", "docker", "--isolation", "chroot", "--network", "host",
		"--pull=never", "--identity-label=false", "-t", "case-" + c.name}
	cmd := storage.buildah(append(append(args, c.args...), c.dir)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Run(); err != nil {
		t.Logf("buildah: %v\n%s", err, lastLines(log.String(), 5))
		return failed
	}
	archive := filepath.Join(storage.dir, c.name+".tar")
	output(t, storage.buildah("push", "case-"+c.name, "docker-archive:"+archive))
	defer os.Remove(archive)
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	return imageFacts(t, img)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// containers is a storage of buildah and podman, which is gone when the test ends.
type containers struct{ dir string }

func newContainers(t *testing.T) *containers {
	t.Helper()
	dir, err := os.MkdirTemp("", "conf-") // podman's sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		endPause(t, dir)
		unmountBelow(t, dir)
		remove(t, dir)
	})
	return &containers{dir}
}

func (c *containers) command(program string, args ...string) *exec.Cmd {
	global := []string{"--root", filepath.Join(c.dir, "root"), "--runroot", filepath.Join(c.dir, "run"), "--storage-driver", c.driver()}
	cmd := exec.Command(program, append(global, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+c.dir, "XDG_RUNTIME_DIR="+c.dir)
	return cmd
}

// endPause ends the process with which an ordinary user's podman keeps its user namespace.
func endPause(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "libpod/tmp/pause.pid"))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("podman's pause process %q: %v", text, err)
	}
}

// driver is one that the file system can carry: overlayfs is not laid over itself.
func (c *containers) driver() string {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.dir, &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "vfs"
	}
	return "overlay"
}

func (c *containers) buildah(args ...string) *exec.Cmd { return c.command("buildah", args...) }

// imageID returns the ID of the only image.
func imageID(t *testing.T, c *containers) string {
	t.Helper()
	ids := strings.Fields(output(t, c.buildah("images", "-q", "--no-trunc")))
	if len(ids) != 1 {
		t.Fatalf("images: %q", ids)
	}
	return ids[0]
}

// unmountBelow takes away what is mounted below dir. Storage keeps its own folder mounted.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range slices.Backward(strings.Split(string(table), "\n")) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := exec.Command("umount", "-l", f[4]).Run(); err != nil {
				t.Errorf("umount %s: %v", f[4], err)
			}
		}
	}
}

// A difference is a line of differences.txt. Case and key are patterns as path.Match has them.
type difference struct {
	line      int
	name, key string
	seen      bool
}

type differences struct {
	mu   sync.Mutex
	list []*difference
}

// readDifferences reads lines of the form "case | key | reason". One whose reason begins with "sometimes:" need not show.
func readDifferences(t *testing.T) *differences {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(casesDir, "differences.txt"))
	if err != nil {
		t.Fatal(err)
	}
	known, n := &differences{}, 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		words := strings.Split(line, "|")
		if len(words) != 3 || strings.TrimSpace(words[2]) == "" {
			t.Fatalf("differences.txt:%d: want case | key | reason", n)
		}
		sometimes := strings.HasPrefix(strings.TrimSpace(words[2]), "sometimes:")
		known.list = append(known.list, &difference{n, strings.TrimSpace(words[0]), strings.TrimSpace(words[1]), sometimes})
	}
	return known
}

// has reports whether a difference is known, and notes that it was seen.
func (d *differences) has(name, key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.list {
		if matches(x.name, name) && matches(x.key, key) {
			x.seen = true
			return true
		}
	}
	return false
}

// matches is path.Match with a slash like any other byte.
func matches(pattern, text string) bool {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	ok, err := path.Match(flat(pattern), flat(text))
	return ok && err == nil
}

func (d *differences) unseen() []*difference {
	return slices.DeleteFunc(slices.Clone(d.list), func(x *difference) bool { return x.seen })
}
