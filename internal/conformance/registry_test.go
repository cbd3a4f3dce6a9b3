package conformance

import (
	"fmt"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/seed0570efb0/build/internal/testkit"
)

// What is pushed to Debian's registry comes back as it was, to skopeo and to a build FROM it, and what the registry
// has is not sent again.
func TestRegistry(t *testing.T) {
	need(t, "docker-registry", "skopeo")
	p := newProduct(t)
	r := startRegistry(t)
	ref := r.host + "/folder/app:1"
	push := []string{"--build-context", "busybox=oci-layout://" + base(t), "-t", ref, "--push", filepath.Join(p.dir, "image_everything")}
	p.account.build(t, push...)
	sent := r.uploads()
	if want := len(layersOf(t, p.image)) + 1; sent == 0 || sent > want {
		t.Errorf("the first push sent %d blobs, there are %d", sent, want)
	}
	p.account.build(t, push...)
	if again := r.uploads() - sent; again != 0 {
		t.Errorf("the second push sent %d blobs", again)
	}

	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "ID", id.String(), p.id(t))

	to := tempDir(t)
	output(t, exec.Command("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+to+":x"))
	compare(t, "skopeo copy", testkit.ListImage(t, openLayout(t, to)), testkit.ListImage(t, p.image))

	for _, a := range accounts(t) { // with new stores
		dir := tempDir(t)
		write(t, filepath.Join(dir, "Dockerfile"), "FROM "+ref+"\nUSER root\nRUN cat /one > /three\nENTRYPOINT [\"cat\", \"/three\"]\n")
		a.build(t, "-t", "three", dir)
		if out := a.build(t, "run", "three"); !strings.HasPrefix(out, "one\n") {
			t.Errorf("as %s: an image FROM %s prints %q", a.name, ref, out)
		}
	}
}

// A debianRegistry is docker-registry on loopback, behind a proxy that notes the requests.
type debianRegistry struct {
	host string
	rec  testkit.Recorder
}

func startRegistry(t *testing.T) *debianRegistry {
	t.Helper()
	dir := tempDir(t)
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: \"127.0.0.1:0\"}\n", dir))
	at := startDaemon(t, exec.Command("docker-registry", "serve", config), regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`))
	r := new(debianRegistry)
	r.host = testkit.Serve(t, r.rec.Record(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: at[1]})
		p.Out.Host = p.In.Host // which it sends clients to for the next step of an upload
	}}))
	return r
}

// uploads returns how many blobs were sent so far.
func (r *debianRegistry) uploads() int { return r.rec.Count("PUT /v2/folder/app/blobs/uploads/") }
