package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A product is the image that the programs get, in all forms that a build can give it.
type product struct {
	account     *account
	dir         string
	oci, docker string   // archives
	image       v1.Image // as read from the OCI archive
}

// newProduct builds the case image_everything as whoever runs the tests.
func newProduct(t *testing.T) *product {
	t.Helper()
	p := &product{account: accounts(t)[0], dir: tempDir(t)}
	p.oci, p.docker = filepath.Join(p.dir, "oci.tar"), filepath.Join(p.dir, "docker.tar")
	c := newCase(t, filepath.Join(casesDir, "image_everything/Dockerfile"), p.dir, "")
	context := "busybox=oci-layout://" + base(t)
	p.account.build(t, "--build-context", context, "-t", "app:1", "-o", "type=oci,dest="+p.oci, "-o", "type=image", c.dir)
	p.account.build(t, "--build-context", context, "-t", "app:1", "-t", "other.example/app:2", "-o", "type=docker,dest="+p.docker, c.dir)
	p.image = openArchive(t, p.oci)
	return p
}

// run returns what the image prints, and its exit status, when "build run" runs it.
func (p *product) run(t *testing.T) string {
	t.Helper()
	return ran(t, p.account.command("run", "app:1"))
}

// ran returns what a command prints, and its exit status.
func ran(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", c, err)
	}
	t.Logf("%s: %s", c, &stderr)
	return stdout.String() + c.ProcessState.String() + "\n"
}

// id returns the digest of the config.
func (p *product) id(t *testing.T) string {
	t.Helper()
	id, err := p.image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

func compare(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got:\n%s\nwant:\n%s", what, got, want)
	}
}

func TestRun(t *testing.T) {
	compare(t, "build run", newProduct(t).run(t), `hello  world, you (2)
1000:1001 in /home/app/work, home /home/app, base base
/one 644 5:6 2
/two 644 5:6 2
/sticky 1777 0:0 2
. 755 1000:1001 2
exit status 3
`)
}

// The docker archive, and what build save makes of the store, hold the image of the OCI archive.
func TestArchives(t *testing.T) {
	p := newProduct(t)
	saved, savedOCI := filepath.Join(p.dir, "saved.tar"), filepath.Join(p.dir, "saved-oci.tar")
	p.account.build(t, "save", "-o", saved, "app:1")
	p.account.build(t, "save", "-o", savedOCI, "--format", "oci", "app:1")
	images := map[string]v1.Image{"saved oci": openArchive(t, savedOCI), "docker as oci": openArchive(t, p.docker)}
	for _, archive := range []string{p.docker, saved} {
		img, err := tarball.ImageFromPath(archive, nil)
		if err != nil {
			t.Fatal(err)
		}
		images[filepath.Base(archive)] = img
	}
	want := testkit.ListImage(t, p.image)
	for name, img := range images {
		id, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		compare(t, name+": ID", id.String(), p.id(t))
		compare(t, name+": files", testkit.ListImage(t, img), want)
	}
	if a, b := readFile(t, p.oci), readFile(t, savedOCI); !bytes.Equal(a, b) {
		t.Error("the archive of the build and that of build save differ")
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSkopeo(t *testing.T) {
	need(t, "skopeo")
	p := newProduct(t)
	var told struct {
		Architecture, Os string
		Labels           map[string]string
		Layers, Env      []string
	}
	text := output(t, exec.Command("skopeo", "inspect", "oci-archive:"+p.oci))
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatal(err)
	}
	if told.Labels["org.example.title"] != "A title" || told.Os != "linux" || len(told.Layers) != len(layersOf(t, p.image)) {
		t.Errorf("skopeo inspect says %s", text)
	}
	for _, from := range []string{"oci-archive:" + p.oci, "docker-archive:" + p.docker + ":app:1", "docker-archive:" + p.docker + ":other.example/app:2"} {
		to := tempDir(t)
		output(t, exec.Command("skopeo", "--insecure-policy", "copy", from, "oci:"+to+":x"))
		img := openLayout(t, to)
		compare(t, from, testkit.ListImage(t, img), testkit.ListImage(t, p.image))
		if strings.HasPrefix(from, "oci") { // on the way from one format to another the config is written anew
			id, err := img.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, from+": ID", id.String(), p.id(t))
		}
		output(t, exec.Command("skopeo", "--insecure-policy", "copy", from, "dir:"+tempDir(t)))
	}
}

func layersOf(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// What umoci unpacks is what "-o type=local" and "-o type=tar" write.
func TestUmoci(t *testing.T) {
	need(t, "umoci")
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack the owners of an image")
	}
	p := newProduct(t)
	oci, raw := tempDir(t), filepath.Join(tempDir(t), "raw")
	output(t, exec.Command("tar", "-C", oci, "-xf", p.oci))
	output(t, exec.Command("umoci", "raw", "unpack", "--image", oci+":1", raw))
	want := testkit.ListDir(t, raw)
	local, files := tempDir(t), filepath.Join(p.dir, "files.tar")
	p.account.build(t, "--build-context", "busybox=oci-layout://"+base(t), "-o", "type=local,dest="+local, "-o", "type=tar,dest="+files,
		filepath.Join(p.dir, "image_everything"))
	owners := regexp.MustCompile(`(?m)^(\d+) \d+:\d+ `)
	compare(t, "type=local, whose files are the user's", testkit.ListDir(t, local), owners.ReplaceAllString(want, "$1 0:0 "))
	compare(t, "type=tar", testkit.ListTar(t, bytes.NewReader(readFile(t, files))), want)
	compare(t, "layers", testkit.ListImage(t, p.image), want)
}

// podman loads both archives, and what it runs says the same as when build runs it.
func TestPodman(t *testing.T) {
	need(t, "podman", "runc")
	p := newProduct(t)
	want := p.run(t)
	for archive, name := range map[string]string{p.oci: "docker.io/library/app:1", p.docker: "localhost/app:1"} {
		storage := newContainers(t)
		loaded := output(t, storage.podman("load", "-q", "-i", archive))
		if !strings.Contains(loaded, name) {
			t.Errorf("podman load -i %s: %s", filepath.Base(archive), loaded)
		}
		compare(t, "podman run", ran(t, storage.podman("run", "--rm", "--network", "none",
			"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", name)), want)
	}
}

func (c *containers) podman(args ...string) *exec.Cmd {
	return c.command("podman", append([]string{"--runtime", "runc", "--cgroup-manager", "cgroupfs"}, args...)...)
}

// buildah builds FROM our archives, and we build FROM a layout that skopeo wrote.
func TestBase(t *testing.T) {
	need(t, "buildah", "skopeo")
	p := newProduct(t)
	for _, from := range []string{"oci-archive:" + p.oci, "docker-archive:" + p.docker + ":app:1"} {
		storage := newContainers(t)
		dir := tempDir(t)
		write(t, filepath.Join(dir, "Dockerfile"), "FROM "+from+"\nUSER root\nRUN cat /one > /three && test ! -e /etc/group\n")
		output(t, storage.buildah("build", "--layers", "--isolation", "chroot", "--network", "host", "-t", "x", dir))
		output(t, storage.buildah("push", "x", "oci:"+dir+"/out:x"))
		if list := testkit.ListImage(t, openLayout(t, filepath.Join(dir, "out"))); !strings.Contains(list, "0644 0:0 f three 4 ") {
			t.Errorf("%s: the image that was built on it has no file three:\n%s", from, list)
		}
	}
	dir := tempDir(t)
	output(t, exec.Command("skopeo", "--insecure-policy", "copy", "docker-archive:"+p.docker+":app:1", "oci:"+dir+"/layout:x"))
	write(t, filepath.Join(dir, "Dockerfile"), "FROM base\nUSER root\nRUN cat /one > /three && test ! -e /etc/group\n")
	p.account.build(t, "--build-context", "base=oci-layout://"+dir+"/layout", "-t", "three", dir)
	if out := p.account.build(t, "run", "--entrypoint", "cat", "three", "/three"); out != "one\n" {
		t.Errorf("/three has %q", out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// An image that others read has every blob that its index names, and no other.
func TestLayout(t *testing.T) {
	p := newProduct(t)
	dir := tempDir(t)
	output(t, exec.Command("tar", "-C", dir, "-xf", p.oci))
	_, manifest := testkit.OpenLayout(t, dir)
	blobs, err := filepath.Glob(dir + "/blobs/sha256/*")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, l := range layersOf(t, p.image) {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		named[d.Hex] = true
	}
	named[manifest.Digest.Hex] = true
	named[strings.TrimPrefix(p.id(t), "sha256:")] = true
	for _, b := range blobs {
		if !named[filepath.Base(b)] {
			t.Errorf("%s is in the archive and nothing names it", filepath.Base(b))
		}
	}
}
