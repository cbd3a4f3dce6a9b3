package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/internal/testkit"
)

// told returns an endpoint in a line.
func told(e endpoint) string {
	var b strings.Builder
	b.WriteString(e.host)
	if e.prefix != "" {
		b.WriteString("/" + e.prefix)
	}
	if e.root != "" {
		b.WriteString(" root=" + e.root)
	}
	for _, f := range []struct {
		text string
		is   bool
	}{{"plain", e.plain}, {"unverified", e.skipVerify}, {"pull", e.pull}, {"resolve", e.resolve}, {"push", e.push}, {"of=" + e.of, e.of != ""}} {
		if f.is {
			b.WriteString(" " + f.text)
		}
	}
	for _, ca := range e.ca {
		fmt.Fprintf(&b, " ca=%s", ca)
	}
	for _, p := range e.pairs {
		fmt.Fprintf(&b, " pair=%s,%s", p[0], p[1])
	}
	for k, v := range e.header {
		fmt.Fprintf(&b, " %s=%s", k, v)
	}
	return b.String()
}

func endpointsOf(t *testing.T, h *Hosts, host string) string {
	t.Helper()
	list, err := h.endpoints(host)
	if err != nil {
		t.Fatal(err)
	}
	var out string
	for _, e := range list {
		out += told(e) + "\n"
	}
	return out
}

func TestRegistryConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "registries.toml")
	text := `
[registry."docker.io"]
  mirrors = ["mirror.example:5000", "https://hub.example/path/", "http://plain.example"]
[registry."mirror.example:5000"]
  http = true
[registry."inner.example"]
  insecure = true
  ca = ["ca.pem", "/abs/ca.pem"]
  [[registry."inner.example".keypair]]
    key = "key.pem"
    cert = "cert.pem"
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := NewHosts(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"docker.io": "mirror.example:5000 plain pull resolve of=docker.io\nhub.example/path pull resolve of=docker.io\n" +
			"plain.example plain pull resolve of=docker.io\nindex.docker.io pull resolve push\n",
		"inner.example":  "inner.example plain unverified pull resolve push ca=DIR/ca.pem ca=/abs/ca.pem pair=DIR/cert.pem,DIR/key.pem\n",
		"other.example":  "other.example pull resolve push\n",
		"localhost:5000": "localhost:5000 plain pull resolve push\n",
		"[::1]:5000":     "[::1]:5000 plain pull resolve push\n",
	} {
		if d := cmp.Diff(strings.ReplaceAll(want, "DIR", dir), endpointsOf(t, h, host)); d != "" {
			t.Errorf("%s: %s", host, d)
		}
	}
}

func TestRegistryConfigErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries.toml")
	for text, want := range map[string]string{
		"[registry.\"a.example\"]\nmirors = []":             "registries.toml:2: unknown key registry.a.example.mirors",
		"\n[worker]\nx = 1":                                 "registries.toml:2: unknown key worker",
		"[registry":                                         "registries.toml:1: ",
		"[registry.\"a.example\"]\nhttp = \"yes\"":          "registries.toml:2: ",
		"[registry.\"a.example/x\"]":                        `registry "a.example/x" is not HOST or HOST:PORT`,
		"[registry.\"a.example\"]\nmirrors = [\"ftp://x\"]": `mirror "ftp://x" is not HOST[:PORT][/PATH]`,
		"[registry.\"a.example\"]\nmirrors = [\"\"]":        `mirror "" is not`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := NewHosts(file, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// What containerd, docker and podman keep in certs.d.
func TestHostFolders(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"containerd/docker.io/hosts.toml": `
server = "https://registry-1.docker.io"
ca = "root.pem"

[host."https://z.example"]
  capabilities = ["pull"]
  ca = ["one.pem", "/two.pem"]
  client = [["c.cert", "c.key"], ["both.pem", ""]]
[host."http://a.example:5000/v2/mirror"]
  capabilities = ["pull", "resolve"]
  override_path = true
  skip_verify = true
  dial_timeout = "2s"
  [host."http://a.example:5000/v2/mirror".header]
    x-key = ["v"]
[host."https://b.example/proxy"]
  capabilities = ["pull", "resolve"]
  client = "both.pem"
`,
		"containerd/_default/hosts.toml":  `[host."https://all.example"]` + "\n  capabilities = ['pull']\n",
		"docker/d.example:5000/ca.crt":    "",
		"docker/d.example:5000/me.cert":   "",
		"docker/d.example:5000/me.key":    "",
		"docker/docker.io/ignored.crt":    "", // the first folder counts
		"containers/e.example_443_/x.crt": "",
	} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h, err := NewHosts("", []string{dir + "/containerd", dir + "/docker", dir + "/containers"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"docker.io": `z.example pull of=docker.io ca=DIR/containerd/docker.io/one.pem ca=/two.pem pair=DIR/containerd/docker.io/c.cert,DIR/containerd/docker.io/c.key pair=DIR/containerd/docker.io/both.pem,
a.example:5000/mirror plain unverified pull resolve of=docker.io X-Key=[v]
b.example root=/proxy/v2 pull resolve of=docker.io pair=DIR/containerd/docker.io/both.pem,
index.docker.io pull resolve push ca=DIR/containerd/docker.io/root.pem
`,
		"d.example:5000": "d.example:5000 pull resolve push ca=DIR/docker/d.example:5000/ca.crt pair=DIR/docker/d.example:5000/me.cert,DIR/docker/d.example:5000/me.key\n",
		"e.example:443":  "e.example:443 pull resolve push ca=DIR/containers/e.example_443_/x.crt\n",
		"else.example":   "all.example pull of=else.example\nelse.example pull resolve push\n",
	} {
		if d := cmp.Diff(strings.ReplaceAll(want, "DIR", dir), endpointsOf(t, h, host)); d != "" {
			t.Errorf("%s: %s", host, d)
		}
	}
}

func TestHostsFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"server = ":                  "hosts.toml:1: ",
		`server = "ftp://x"`:         `server "ftp://x": it is not http[s]://HOST[:PORT]`,
		"[host.'https://x']\nca = 1": "ca: want a text or a list of them",
		"[host.'https://x']\nclient = [['a','b','c']]": "client: want a file",
		"[host.'https://x'.header]\nx = [1]":           "header x: want a text",
	} {
		if _, err := readHosts("hosts.toml", []byte(text), "r.example"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzHostsFile(f *testing.F) {
	f.Add(`server = "https://a"` + "\n[host.\"https://b\"]\ncapabilities = [\"pull\"]\n[host.\"https://b\".header]\nx = [\"y\"]")
	f.Add("[host.'https://x/y']\noverride_path = true\nclient = [['a','b']]")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := readHosts("/dir/hosts.toml", []byte(text), "r.example")
		if err == nil && len(list) == 0 {
			t.Error("no endpoint")
		}
	})
}

// Mirrors are asked in order before the registry; one that does not answer is not asked again, and pushes go to the registry.
func TestMirrors(t *testing.T) {
	testConfig(t)
	var dead, mirror, origin testkit.Recorder
	img := smallImage(t)
	deadHost := testkit.Registry(t, dead.Record, testkit.Fail("GET /v2/", 418))
	mirrorHost := testkit.Registry(t, mirror.Record)
	originHost := testkit.Registry(t, origin.Record)
	testkit.PushImage(t, mirrorHost, "copy/app:1", img)
	testkit.PushImage(t, originHost, "app:2", img)
	file := filepath.Join(t.TempDir(), "registries.toml")
	text := fmt.Sprintf("[registry.%q]\nmirrors = [%q, %q]\n", originHost, deadHost, mirrorHost+"/copy")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newImages(t)
	var err error
	if m.client.Hosts, err = NewHosts(file, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*testkit.Recorder{&dead, &mirror, &origin} {
		r.Reset()
	}
	if _, err := m.Resolve(t.Context(), originHost+"/app:1", amd64, false); err != nil {
		t.Fatal(err)
	}
	if n := len(origin.Requests()); n != 0 || mirror.Count("GET /v2/copy/app/manifests/1") != 1 || dead.Count("") != 1 {
		t.Errorf("asked: %v, %v, %v", dead.Requests(), mirror.Requests(), origin.Requests())
	}
	if _, err := m.Resolve(t.Context(), originHost+"/app:2", amd64, false); err != nil {
		t.Fatal(err)
	}
	if origin.Count("GET /v2/app/manifests/2") != 1 || mirror.Count("GET /v2/copy/app/manifests/2") != 1 {
		t.Errorf("asked: %v, %v", mirror.Requests(), origin.Requests())
	}
	if err := m.client.Push(t.Context(), originHost+"/app:3", img, PushOptions{}); err != nil || origin.Count("PUT /v2/app/manifests/3") != 1 || mirror.Count("PUT") != 0 {
		t.Errorf("push: %v, %v, %v", err, mirror.Requests(), origin.Requests())
	}
	_, err = m.Resolve(t.Context(), originHost+"/missing:1", amd64, false)
	wantError(t, err, ErrNotFound, originHost+"/missing:1", "check the name")
}
