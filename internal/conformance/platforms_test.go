package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/seed0570efb0/build/internal/testkit"
)

// twoPlatforms is a machine that is like this one, and one that is not.
const twoPlatforms = "linux/amd64,linux/arm64"

// foreignContext returns a context with a program for each platform, which writes what it was compiled for into /out.
func foreignContext(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	write(t, filepath.Join(dir, "main.go"), `package main

import (
	"os"
	"runtime"
)

func main() {
	if err := os.WriteFile(os.Args[1], []byte(runtime.GOARCH), 0o644); err != nil {
		panic(err)
	}
}
`)
	for _, arch := range []string{"amd64", "arm64"} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, arch, "say"), filepath.Join(dir, "main.go"))
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch, "GOFLAGS=")
		output(t, c)
	}
	write(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH/say /bin/say\n"+
		// Registering an emulator takes a second try, which mounts all once more.
		"RUN --mount=type=bind,source=main.go,target=/main.go [\"say\", \"/out\"]\n")
	return dir
}

// A step for another kind of processor runs where the kernel has an emulator, or where one is at hand and can be registered
// in the build's own user namespace. Elsewhere the error says what is missing.
func TestForeign(t *testing.T) {
	dir := foreignContext(t)
	write(t, filepath.Join(dir, "foreign.Dockerfile"), "FROM scratch\nCOPY foreign /bin/say\nRUN [\"say\", \"/out\"]\n")
	foreign := "arm64"
	if runtime.GOARCH == foreign {
		foreign = "amd64"
	}
	if err := os.Rename(filepath.Join(dir, foreign), filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "f/say"), filepath.Join(dir, "foreign")); err != nil {
		t.Fatal(err)
	}
	registered := exec.Command(filepath.Join(dir, "foreign"), os.DevNull).Run() == nil
	for _, a := range accounts(t) {
		t.Run(a.name, func(t *testing.T) {
			c := a.command("-o", filepath.Join(a.home, "out"), "-f", filepath.Join(dir, "foreign.Dockerfile"), dir)
			c.Env = append(c.Env, "PATH="+filepath.Join(work, "nowhere"))
			out, err := c.CombinedOutput()
			if registered {
				if err != nil {
					t.Errorf("the kernel runs it, and the build does not: %s", out)
				}
				return
			}
			if err == nil || !strings.Contains(string(out), "hint: install the package qemu-user-static") {
				t.Errorf("without an emulator: %v, %s", err, out)
			}
		})
	}
}

// One build for two platforms, one of which is emulated: each gets its files, in a folder of its own.
func TestEmulated(t *testing.T) {
	need(t, "qemu-aarch64-static", "qemu-x86_64-static")
	dir := foreignContext(t)
	for _, a := range accounts(t) {
		t.Run(a.name, func(t *testing.T) {
			c := a.command("--platform", twoPlatforms, "-o", filepath.Join(a.home, "out"), dir)
			if exec.Command(filepath.Join(dir, "arm64/say"), os.DevNull).Run() != nil && runtime.GOARCH == "amd64" {
				probe := exec.Command("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "binfmt_misc", "none", tempDir(t))
				if out, err := probe.CombinedOutput(); err != nil {
					t.Skipf("no emulator is registered, and this kernel (before Linux 6.7) lets no user namespace do so: %s", out)
				}
				if a.cred == nil && os.Geteuid() == 0 {
					out, err := c.CombinedOutput()
					if err == nil || !strings.Contains(string(out), "not registered in /proc/sys/fs/binfmt_misc") {
						t.Fatalf("root must not register it for the whole host: %v, %s", err, out)
					}
					c = withRegistered(c, tempDir(t))
				}
			}
			output(t, c)
			for _, arch := range []string{"amd64", "arm64"} {
				if got := string(readFile(t, filepath.Join(a.home, "out", "linux_"+arch, "out"))); got != arch {
					t.Errorf("/out of %s has %q", arch, got)
				}
			}
		})
	}
}

// withRegistered runs c in a user namespace that is like a host where the package's emulator for arm64 is registered.
func withRegistered(c *exec.Cmd, dir string) *exec.Cmd {
	script := `mount -t binfmt_misc none "$0" && cat /usr/lib/binfmt.d/qemu-aarch64.conf > "$0/register" && exec "$@"`
	args := append([]string{"--user", "--map-root-user", "--mount", "sh", "-c", script, dir}, c.Args...)
	in := exec.Command("unshare", args...)
	in.Env, in.Dir = c.Env, c.Dir
	return in
}

// The index is what other people's programs read: an archive, a folder and a registry with two platforms.
func TestIndex(t *testing.T) {
	need(t, "docker-registry", "skopeo", "umoci", "podman", "runc")
	a := accounts(t)[0]
	dir := tempDir(t)
	write(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\nLABEL arch=$TARGETARCH\n")
	r := startRegistry(t)
	ref := r.host + "/folder/app:1"
	archive, folder := filepath.Join(dir, "a.tar"), filepath.Join(dir, "layout")
	a.build(t, "--platform", twoPlatforms, "-t", ref, "--push", "-o", "type=oci,dest="+archive, "-o", "type=oci,tar=false,dest="+folder, "-o", "type=image", dir)

	named, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Index(named)
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(dir, "saved.tar")
	a.build(t, "save", "--format", "oci", "-o", saved, ref)
	inFolder := indexIn(t, folder)
	for place, index := range map[string]v1.ImageIndex{"registry": pushed, "folder": inFolder, "archive": indexIn(t, unpackedArchive(t, archive)), "saved": indexIn(t, unpackedArchive(t, saved))} {
		if err := validate.Index(index); err != nil {
			t.Errorf("%s: %v", place, err)
		}
		got, _ := index.Digest()
		want, _ := inFolder.Digest()
		if got != want {
			t.Errorf("%s: the index is %s, in the folder %s", place, got, want)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		told := output(t, exec.Command("skopeo", "--override-arch", arch, "inspect", "--config", "--tls-verify=false", "docker://"+ref))
		if !strings.Contains(told, `"arch": "`+arch+`"`) || !strings.Contains(told, `"architecture": "`+arch+`"`) {
			t.Errorf("skopeo inspect for %s: %s", arch, told)
		}
	}
	to := tempDir(t)
	output(t, exec.Command("skopeo", "--insecure-policy", "copy", "--all", "oci-archive:"+archive, "oci:"+to+":x"))
	if err := validate.Index(indexIn(t, to)); err != nil {
		t.Errorf("what skopeo copied: %v", err)
	}
	if tags := output(t, exec.Command("umoci", "ls", "--layout", folder)); tags != "1\n" {
		t.Errorf("umoci ls: %q", tags)
	}
	if loaded := output(t, newContainers(t).podman("load", "-q", "-i", archive)); !strings.Contains(loaded, ref) {
		t.Errorf("podman load: %s", loaded)
	}
	write(t, filepath.Join(dir, "on.Dockerfile"), "FROM "+ref+"\nCOPY Dockerfile /again\n")
	for _, arch := range []string{"amd64", "arm64"} {
		a.build(t, "--platform", "linux/"+arch, "-f", filepath.Join(dir, "on.Dockerfile"), "-o", filepath.Join(a.home, arch), dir)
		if list := testkit.ListDir(t, filepath.Join(a.home, arch)); !strings.Contains(list, " f "+arch+" ") {
			t.Errorf("FROM the stored image for %s: %s", arch, list)
		}
	}
}

// indexIn returns the index that the only entry of a layout leads to.
func indexIn(t *testing.T, dir string) v1.ImageIndex {
	t.Helper()
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func unpackedArchive(t *testing.T, archive string) string {
	t.Helper()
	dir := tempDir(t)
	output(t, exec.Command("tar", "-C", dir, "-xf", archive))
	return dir
}
