package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A registry that wants to know who asks, by a certificate, and whose own is signed by nobody known: each kind of
// configuration lets a build in.
func TestRegistryTLS(t *testing.T) {
	need(t, "docker-registry")
	certs := tempDir(t)
	testkit.Certificates(t, certs)
	host := startTLSRegistry(t, certs)
	dir := tempDir(t)
	write(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n")
	write(t, filepath.Join(dir, "on.Dockerfile"), "FROM "+host+"/app:1\nCOPY Dockerfile /again\n")
	write(t, filepath.Join(dir, "mirror.Dockerfile"), "FROM registry.invalid/app:1\nCOPY Dockerfile /again\n")

	a := accounts(t)[0]
	c := a.command("-t", host+"/app:1", "--push", dir)
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "certificate of the registry is not trusted") {
		t.Fatalf("without a configuration: %v, %s", err, out)
	}
	for name, files := range map[string]map[string]string{
		"configuration": {"build/registries.toml": fmt.Sprintf("[registry.%q]\nca = [%q]\n[[registry.%[1]q.keypair]]\ncert = %[3]q\nkey = %[4]q\n[registry.\"registry.invalid\"]\nmirrors = [%[1]q]\n",
			host, certs+"/ca.crt", certs+"/client.cert", certs+"/client.key")},
		"containerd": {"containerd/certs.d/" + host + "/hosts.toml": fmt.Sprintf("ca = %q\n", certs+"/ca.crt") + fmt.Sprintf(`[host."https://%s"]`, host) +
			fmt.Sprintf("\nca = %q\nclient = [[%q, %q]]\n", certs+"/ca.crt", certs+"/client.cert", certs+"/client.key"),
			"containerd/certs.d/registry.invalid/hosts.toml": fmt.Sprintf("[host.\"https://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = %q\nclient = [[%q, %q]]\n",
				host, certs+"/ca.crt", certs+"/client.cert", certs+"/client.key")},
		"docker": {"docker/certs.d/" + host + "/ca.crt": "=", "docker/certs.d/" + host + "/client.cert": "=", "docker/certs.d/" + host + "/client.key": "="},
	} {
		t.Run(name, func(t *testing.T) {
			a := accounts(t)[0]
			for file, text := range files {
				if text == "=" {
					text = string(readFile(t, filepath.Join(certs, filepath.Base(file))))
				}
				file = filepath.Join(a.home, ".config", file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, file, text)
			}
			a.build(t, "-t", host+"/app:1", "-o", "type=registry", dir)
			a.build(t, "-f", filepath.Join(dir, "on.Dockerfile"), "-o", filepath.Join(a.home, "out"), dir)
			if name == "docker" {
				return // whose certs.d knows no mirrors
			}
			a.build(t, "-f", filepath.Join(dir, "mirror.Dockerfile"), "-o", filepath.Join(a.home, "mirrored"), dir)
		})
	}
}

func startTLSRegistry(t *testing.T, certs string) (host string) {
	t.Helper()
	dir := tempDir(t)
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s/data}}\n"+
		"http: {addr: \"127.0.0.1:0\", tls: {certificate: %[2]s/server.crt, key: %[2]s/server.key, clientcas: [%[2]s/ca.crt]}}\n", dir, certs))
	at := startDaemon(t, exec.Command("docker-registry", "serve", config), regexp.MustCompile(`listening on (127\.0\.0\.1:\d+), tls`))
	return at[1]
}
