package source

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/pelletier/go-toml/v2"
)

// Hosts say how registries are reached: where they are, through which mirrors, and with which certificates. What nothing is
// said about is reached by its name, with TLS, and without it on this machine.
type Hosts struct {
	// registries are those of the configuration file, by host.
	registries map[string]registryConfig
	file       string
	// folders are those with a folder for each host: containerd's, docker's and podman's certs.d.
	folders []string
}

// registryConfig is a table [registry."HOST"] of the configuration file, which has the keys of BuildKit's.
type registryConfig struct {
	Mirrors  []string `toml:"mirrors"`
	HTTP     bool     `toml:"http"`
	Insecure bool     `toml:"insecure"`
	CA       []string `toml:"ca"`
	Pairs    []struct {
		Key  string `toml:"key"`
		Cert string `toml:"cert"`
	} `toml:"keypair"`
}

// An endpoint is a server that has the repositories of a registry.
type endpoint struct {
	host   string // with the port
	prefix string // before the names of repositories
	root   string // the path of the API; "" is /v2
	trust
	plain  bool        // TLS is not needed
	header http.Header // of every request
	// What the server is asked for: blobs and manifests by digest, tags, and to take images.
	pull, resolve, push bool
	// of is the registry that the server is a mirror of; "" for the registry itself.
	of string
}

// trust says whom to believe, and who to be, in TLS. Files are read when they are needed.
type trust struct {
	ca         []string    // more than the system has
	pairs      [][2]string // certificate and key
	skipVerify bool
}

// NewHosts reads the configuration file, when file is not "", and remembers the folders with one folder for each host.
func NewHosts(file string, folders []string) (*Hosts, error) {
	h := &Hosts{file: file, folders: folders}
	if file == "" {
		return h, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var config struct {
		Registry map[string]registryConfig `toml:"registry"`
	}
	d := toml.NewDecoder(strings.NewReader(string(b)))
	if err := d.DisallowUnknownFields().Decode(&config); err != nil {
		return nil, tomlError(file, err)
	}
	h.registries = config.Registry
	for host, r := range h.registries {
		if _, err := name.NewRegistry(host); err != nil || strings.Contains(host, "/") {
			return nil, fmt.Errorf("%s: registry %q is not HOST or HOST:PORT", file, host)
		}
		for _, m := range r.Mirrors {
			if _, err := h.mirror(m, host); err != nil {
				return nil, fmt.Errorf("%s: registry %q: %w", file, host, err)
			}
		}
	}
	return h, nil
}

// tomlError names the place in a file.
func tomlError(file string, err error) error {
	var strict *toml.StrictMissingError
	var at *toml.DecodeError
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		line, _ := strict.Errors[0].Position()
		return fmt.Errorf("%s:%d: unknown key %s", file, line, strings.Join(strict.Errors[0].Key(), "."))
	case errors.As(err, &at):
		line, _ := at.Position()
		return fmt.Errorf("%s:%d: %s", file, line, strings.TrimPrefix(at.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", file, err)
}

// endpoints returns the servers of the registry host in the order in which they are asked; the first place that says
// something about the host counts.
func (h *Hosts) endpoints(host string) ([]endpoint, error) {
	if h == nil {
		return []endpoint{itself(host)}, nil
	}
	r, ok := h.registries[host]
	if !ok {
		if found, err := h.fromFolders(host); err != nil || found != nil {
			return found, err
		}
		return []endpoint{itself(host)}, nil
	}
	var out []endpoint
	for _, text := range r.Mirrors {
		m, err := h.mirror(text, host)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return append(out, h.configured(host, r)), nil
}

// itself is the registry of which nothing more is known.
func itself(host string) endpoint {
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = name.DefaultRegistry // as credentials know it
	}
	return endpoint{host: host, plain: isLoopback(hostname(host)), pull: true, resolve: true, push: true}
}

// hostname returns HOST[:PORT] without the port.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.Trim(host, "[]")
}

// configured returns the registry itself as the file describes it.
func (h *Hosts) configured(host string, r registryConfig) endpoint {
	e := itself(host)
	e.plain = e.plain || r.HTTP || r.Insecure
	e.skipVerify = r.Insecure
	for _, ca := range r.CA {
		e.ca = append(e.ca, h.relative(ca))
	}
	for _, p := range r.Pairs {
		e.pairs = append(e.pairs, [2]string{h.relative(p.Cert), h.relative(p.Key)})
	}
	return e
}

func (h *Hosts) relative(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(h.file), file)
}

// mirror returns the mirror that text names: HOST[:PORT][/PREFIX], reached as what is said about that host says.
func (h *Hosts) mirror(text, of string) (endpoint, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "https", text
	}
	host, prefix, _ := strings.Cut(rest, "/")
	if _, err := name.NewRegistry(host); err != nil || host == "" || scheme != "https" && scheme != "http" {
		return endpoint{}, fmt.Errorf("mirror %q is not HOST[:PORT][/PATH]", text)
	}
	e := itself(host)
	if r, ok := h.registries[host]; ok {
		e = h.configured(host, r)
	} else if t, ok, err := h.trustOf(host); err != nil {
		return e, err
	} else if ok {
		e.trust = t
	}
	e.prefix, e.of, e.push = strings.Trim(prefix, "/"), of, false
	e.plain = e.plain || scheme == "http"
	return e, nil
}

// config returns the settings of TLS, nil when there is nothing special.
func (t trust) config() (*tls.Config, error) {
	if len(t.ca) == 0 && len(t.pairs) == 0 && !t.skipVerify {
		return nil, nil
	}
	c := &tls.Config{InsecureSkipVerify: t.skipVerify}
	for i, file := range t.ca {
		if i == 0 {
			if c.RootCAs, _ = x509.SystemCertPool(); c.RootCAs == nil {
				c.RootCAs = x509.NewCertPool()
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("certificate authority %s: there is no certificate in PEM in it", file)
		}
	}
	for _, p := range t.pairs {
		pair, err := tls.LoadX509KeyPair(p[0], cmp.Or(p[1], p[0]))
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", p[0], err)
		}
		c.Certificates = append(c.Certificates, pair)
	}
	return c, nil
}

// DefaultHosts reads the configuration file: the one that is named, or else the user's or the system's, when there is
// one; and remembers the usual folders.
func DefaultHosts(file string) (*Hosts, error) {
	places := []string{"/etc"}
	if dir, err := os.UserConfigDir(); err == nil {
		places = []string{dir, "/etc"}
	}
	var folders []string
	for _, dir := range places {
		for _, of := range []string{"containerd", "docker", "containers"} {
			folders = append(folders, filepath.Join(dir, of, "certs.d"))
		}
		own := filepath.Join(dir, "build", "registries.toml")
		if file != "" {
			continue
		}
		switch _, err := os.Stat(own); {
		case err == nil:
			file = own
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return NewHosts(file, folders)
}
