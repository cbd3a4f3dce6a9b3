package conformance

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// dockerd loads the archive under both names, has its config and ID unchanged, and runs it like build.
func TestDocker(t *testing.T) {
	p := newProduct(t)
	d := startDocker(t)
	want := p.run(t)
	saved := filepath.Join(p.dir, "saved.tar")
	p.account.build(t, "save", "-o", saved, "app:1")
	for archive, names := range map[string][]string{p.docker: {"app:1", "other.example/app:2"}, saved: {"app:1"}} {
		loaded := output(t, d.command("load", "-i", archive))
		for _, name := range names {
			if !strings.Contains(loaded, "Loaded image: "+name+"\n") {
				t.Errorf("docker load -i %s: %s", filepath.Base(archive), loaded)
			}
			d.inspect(t, name, p)
			compare(t, "docker run "+name, ran(t, d.command("run", "--rm", "--network", "none", name)), want)
		}
		output(t, d.command(append([]string{"image", "rm", "-f"}, names...)...))
	}
}

// inspect compares what docker knows of an image with the image.
func (d *docker) inspect(t *testing.T, name string, p *product) {
	t.Helper()
	var got []struct {
		ID     string `json:"Id"`
		Config v1.Config
		RootFS struct{ Layers []v1.Hash }
	}
	if err := json.Unmarshal([]byte(output(t, d.command("image", "inspect", name))), &got); err != nil {
		t.Fatal(err)
	}
	file, err := p.image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, name+": ID", got[0].ID, p.id(t))
	if diff := cmp.Diff(file.Config, got[0].Config, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: config, ours (-) and docker's (+):\n%s", name, diff)
	}
	if diff := cmp.Diff(file.RootFS.DiffIDs, got[0].RootFS.Layers); diff != "" {
		t.Errorf("%s: layers, ours (-) and docker's (+):\n%s", name, diff)
	}
}

// docker is a daemon of the test's own, which ends with it.
type docker struct{ socket string }

func (d *docker) command(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"-H", d.socket}, args...)...)
}

func startDocker(t *testing.T) *docker {
	t.Helper()
	need(t, "dockerd", "docker")
	if os.Geteuid() != 0 {
		t.Skip("dockerd needs root")
	}
	dir := tempDir(t)
	d := &docker{"unix://" + dir + "/s"}
	t.Cleanup(func() { unmountBelow(t, dir) })
	daemon := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--host", d.socket,
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "overlay2")
	startDaemon(t, daemon, regexp.MustCompile(`API listen on `))
	return d
}
