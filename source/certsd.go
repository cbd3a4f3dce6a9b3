package source

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// hostsFile is what containerd calls the description of a registry.
const hostsFile = "hosts.toml"

// fromFolders returns the endpoints that the folder of a host describes, nil when none does.
func (h *Hosts) fromFolders(host string) ([]endpoint, error) {
	dir := h.folderOf(host)
	if dir == "" {
		return nil, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, hostsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t, err := readCerts(dir)
		e := itself(host)
		e.trust = t
		return []endpoint{e}, err
	case err != nil:
		return nil, err
	}
	return readHosts(filepath.Join(dir, hostsFile), b, host)
}

// trustOf returns what a folder says about the certificates of a host that is not asked as a registry of its own.
func (h *Hosts) trustOf(host string) (trust, bool, error) {
	dir := h.folderOf(host)
	if dir == "" {
		return trust{}, false, nil
	}
	t, err := readCerts(dir)
	return t, err == nil, err
}

// folderOf returns the first folder for a host. The one for all others is only containerd's to have.
func (h *Hosts) folderOf(host string) string {
	for _, name := range hostFolders(host) {
		for _, dir := range h.folders {
			dir = filepath.Join(dir, name)
			if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
				return dir
			}
		}
	}
	return ""
}

// hostFolders returns the names that the folder of a host may have, the best first.
func hostFolders(host string) []string {
	names := []string{host, "_default"}
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		names = slices.Insert(names, 0, host[:i]+"_"+host[i+1:]+"_")
	}
	return names
}

// readCerts reads a folder as docker does: FILE.crt are authorities, FILE.cert with FILE.key who we are.
func readCerts(dir string) (t trust, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return t, err
	}
	for _, f := range list {
		file := filepath.Join(dir, f.Name())
		switch base, ext := strings.TrimSuffix(file, path.Ext(file)), path.Ext(file); ext {
		case ".crt":
			t.ca = append(t.ca, file)
		case ".cert":
			if _, err := os.Stat(base + ".key"); err != nil {
				return t, fmt.Errorf("%s has no %s.key beside it", file, filepath.Base(base))
			}
			t.pairs = append(t.pairs, [2]string{file, base + ".key"})
		}
	}
	return t, nil
}

// hostTable is a server as hosts.toml describes it. Keys that it has beside these are for containerd alone.
type hostTable struct {
	Server       string               `toml:"server"`
	Capabilities []string             `toml:"capabilities"`
	CA           any                  `toml:"ca"`     // a file, or a list of them
	Client       any                  `toml:"client"` // a file with certificate and key, a list of them, or a list of pairs
	SkipVerify   bool                 `toml:"skip_verify"`
	OverridePath bool                 `toml:"override_path"`
	Header       map[string]any       `toml:"header"` // a value, or a list of them
	Host         map[string]hostTable `toml:"host"`
}

// readHosts reads a hosts.toml: its hosts are mirrors, asked in the order in which they are written, before the server.
func readHosts(file string, data []byte, host string) ([]endpoint, error) {
	var top hostTable
	if err := toml.Unmarshal(data, &top); err != nil {
		return nil, tomlError(file, err)
	}
	var out []endpoint
	for _, address := range hostOrder(data) {
		e, err := top.Host[address].endpoint(address, filepath.Dir(file))
		if err != nil {
			return nil, fmt.Errorf("%s: host %q: %w", file, address, err)
		}
		if e.host != itself(host).host {
			e.of = host
		}
		out = append(out, e)
	}
	if top.Server == "" {
		top.Server = host
	}
	e, err := top.endpoint(top.Server, filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("%s: server %q: %w", file, top.Server, err)
	}
	return append(out, e), nil
}

// hostOrder returns the keys of the table host in the order in which they are written, which a map does not keep.
func hostOrder(data []byte) []string {
	var out []string
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var keys []string
		for it := e.Key(); it.Next(); {
			keys = append(keys, string(it.Node().Data))
		}
		if len(keys) >= 2 && keys[0] == "host" && !slices.Contains(out, keys[1]) {
			out = append(out, keys[1])
		}
	}
	return out
}

// endpoint returns the server at an address. Files are relative to dir.
func (t hostTable) endpoint(address, dir string) (endpoint, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return endpoint{}, err
	}
	if u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return endpoint{}, errors.New("it is not http[s]://HOST[:PORT]")
	}
	e := itself(u.Host)
	e.plain = e.plain || u.Scheme == "http"
	e.skipVerify = t.SkipVerify
	root := path.Clean("/" + u.Path)
	if !t.OverridePath {
		root = path.Join(root, "v2")
	}
	if rest, ok := strings.CutPrefix(root, "/v2"); ok && (rest == "" || rest[0] == '/') {
		e.prefix = strings.Trim(rest, "/")
	} else {
		e.root = root
	}
	if t.Capabilities != nil {
		has := func(c string) bool { return slices.Contains(t.Capabilities, c) }
		e.pull, e.resolve, e.push = has("pull"), has("resolve"), has("push")
	}
	if e.header, err = t.header(); err != nil {
		return e, err
	}
	return e, e.files(t, dir)
}

func (t hostTable) header() (http.Header, error) {
	h := http.Header{}
	for k, v := range t.Header {
		list, err := texts(v)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", k, err)
		}
		for _, text := range list {
			h.Add(k, text)
		}
	}
	return h, nil
}

// files notes the files of certificates.
func (e *endpoint) files(t hostTable, dir string) error {
	at := func(file string) string {
		if file == "" || filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(dir, file)
	}
	list, err := texts(t.CA)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	for _, file := range list {
		e.ca = append(e.ca, at(file))
	}
	clients, ok := t.Client.([]any)
	if !ok && t.Client != nil {
		clients = []any{t.Client}
	}
	for _, c := range clients {
		pair, err := texts(c)
		if err != nil || len(pair) == 0 || len(pair) > 2 {
			return errors.New("client: want a file, or [certificate, key]")
		}
		e.pairs = append(e.pairs, [2]string{at(pair[0]), at(append(pair, "")[1])})
	}
	return nil
}

// texts reads a text, or a list of them.
func texts(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var out []string
		for _, x := range v {
			text, ok := x.(string)
			if !ok {
				return nil, fmt.Errorf("want a text, got %v", x)
			}
			out = append(out, text)
		}
		return out, nil
	}
	return nil, fmt.Errorf("want a text or a list of them, got %v", v)
}
