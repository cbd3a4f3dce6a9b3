package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// testConfig points the credentials at an empty folder.
func testConfig(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("XDG_RUNTIME_DIR", "")
	return filepath.Join(dir, "config.json")
}

func smallImage(t *testing.T) v1.Image {
	img := testkit.Image(t, v1.Config{Env: []string{"A=b"}, Cmd: []string{"sh"}},
		testkit.Tar(t, "etc/", "etc/name = one\n"), testkit.Tar(t, "etc/", "etc/other 600 5:6 = two\n"))
	return onPlatform(t, img, "linux", "amd64")
}

func onPlatform(t *testing.T, img v1.Image, os, arch string) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = os, arch
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// Resolving downloads no layer; a second time, and in another process, it asks nobody; reading a file downloads.
func TestResolve(t *testing.T) {
	testConfig(t)
	var rec testkit.Recorder
	host := testkit.Registry(t, rec.Record)
	img := smallImage(t)
	ref := testkit.PushImage(t, host, "app:1", img)
	rec.Reset()

	m := newImages(t)
	r, err := m.Resolve(t.Context(), ref, amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.ConfigName()
	if r.Config.String() != want.String() || len(r.Layers) != 2 || r.Built || r.Spec.Config.Env[0] != "A=b" || r.Chain.IsZero() {
		t.Errorf("Resolve = %+v", r)
	}
	manifest, _ := img.Digest()
	if want := host + "/app:1@" + manifest.String(); r.Pinned() != want {
		t.Errorf("Pinned = %s, want %s", r.Pinned(), want)
	}
	if n := rec.Count("/blobs/"); n != 1 {
		t.Errorf("%d blobs were asked for, want the config: %v", n, rec.Requests())
	}

	rec.Reset()
	again := NewImages(m.disk, m.layers, m.client)
	if r2, err := again.Resolve(t.Context(), ref, amd64, false); err != nil || r2.Chain != r.Chain || r2.Manifest != r.Manifest {
		t.Errorf("second Resolve = %+v, %v", r2, err)
	}
	if n := rec.Count(""); n != 0 {
		t.Errorf("the second time asked the registry: %v", rec.Requests())
	}
	if _, err := again.Resolve(t.Context(), ref, amd64, true); err != nil || rec.Count("GET /v2/app/manifests/1") != 1 {
		t.Errorf("with pull: %v, %v", err, rec.Requests())
	}

	view, err := m.layers.View(t.Context(), r.Chain)
	if err != nil {
		t.Fatal(err)
	}
	b, ok, err := snapshot.ReadFile(view, "/etc/other", 100)
	if string(b) != "two\n" || !ok || err != nil {
		t.Errorf("etc/other = %q, %v, %v", b, ok, err)
	}
}

func TestResolveDigest(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	img := smallImage(t)
	testkit.PushImage(t, host, "app:1", img)
	d, _ := img.Digest()
	m := newImages(t)
	for _, ref := range []string{host + "/app@" + d.String(), host + "/app:nope@" + d.String()} {
		if r, err := m.Resolve(t.Context(), ref, amd64, false); err != nil || r.Manifest.String() != d.String() || !strings.HasSuffix(r.Pinned(), "/app@"+d.String()) {
			t.Errorf("Resolve(%s) = %+v, %v", ref, r, err)
		}
	}
	bad := host + "/app@" + digest.Of([]byte("x")).String()
	if _, err := m.Resolve(t.Context(), bad, amd64, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestResolveIndex(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	amd := smallImage(t)
	arm := onPlatform(t, amd, "linux", "arm64")
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.DockerManifestList),
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: smallImage(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	ref, _ := name.ParseReference(host+"/multi:1", name.Insecure)
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	m := newImages(t)
	for arch, img := range map[string]v1.Image{"amd64": amd, "arm64": arm} {
		want, _ := img.Digest()
		r, err := m.Resolve(t.Context(), ref.Name(), ocispec.Platform{OS: "linux", Architecture: arch}, false)
		if err != nil || r.Manifest.String() != want.String() {
			t.Errorf("%s: %+v, %v; want %s", arch, r, err, want)
		}
	}
	_, err := m.Resolve(t.Context(), ref.Name(), ocispec.Platform{OS: "linux", Architecture: "s390x"}, false)
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "no match for platform in manifest: want linux/s390x, there is linux/amd64, linux/arm64") {
		t.Errorf("s390x: %v", err)
	}
}

func TestWrongPlatform(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	ref := testkit.PushImage(t, host, "app:1", onPlatform(t, smallImage(t), "linux", "riscv64"))
	m := newImages(t)
	_, err := m.Resolve(t.Context(), ref, amd64, false)
	wantError(t, err, ErrPlatform, "want linux/amd64, there is linux/riscv64", "--platform")
}

// Docker's media types are another name for the same bytes.
func TestDockerTypes(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	img, err := random.Image(200, 2) // docker types
	if err != nil {
		t.Fatal(err)
	}
	img = onPlatform(t, img, "linux", "amd64")
	m := newImages(t)
	r, err := m.Resolve(t.Context(), testkit.PushImage(t, host, "app:1", img), amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range r.Layers {
		blobs, err := m.layers.Blobs(l)
		if err != nil || len(blobs) != 1 || blobs[0].MediaType != snapshot.MediaTypeTarGzip || blobs[0].Origins[0] != host+"/app" {
			t.Errorf("blobs = %+v, %v", blobs, err)
		}
	}
}

func wantError(t *testing.T, err error, cause error, text, hint string) {
	t.Helper()
	var e *ImageError
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want an ImageError", err)
	}
	if cause != nil && !errors.Is(err, cause) || !strings.Contains(err.Error(), text) || !strings.Contains(e.Hint, hint) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %v; hint = %s\nwant %v, %q, hint %q", err, e.Hint, cause, text, hint)
	}
}

func TestErrors(t *testing.T) {
	file := testConfig(t)
	img := smallImage(t)
	t.Run("not found", func(t *testing.T) {
		var rec testkit.Recorder
		host := testkit.Registry(t, rec.Record)
		_, err := newImages(t).Resolve(t.Context(), host+"/nope:1", amd64, false)
		wantError(t, err, ErrNotFound, host+"/nope:1: not found in the registry", "check the name")
		if n := rec.Count("GET /v2/nope/manifests/1"); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("unauthorized", func(t *testing.T) {
		host := testkit.Registry(t, testkit.Unauthorized())
		_, err := newImages(t).Resolve(t.Context(), host+"/app:1", amd64, false)
		wantError(t, err, ErrUnauthorized, "401 Unauthorized", "docker login "+host+" (credentials are read from "+file)
	})
	t.Run("forbidden", func(t *testing.T) {
		host := testkit.Registry(t, testkit.Fail("/manifests/", http.StatusForbidden))
		_, err := newImages(t).Resolve(t.Context(), host+"/app:1", amd64, false)
		wantError(t, err, ErrUnauthorized, "403 Forbidden", "docker login")
	})
	t.Run("server error", func(t *testing.T) {
		var rec testkit.Recorder
		host := testkit.Registry(t, rec.Record, testkit.Fail("/manifests/", http.StatusBadGateway))
		_, err := newImages(t).Resolve(t.Context(), host+"/app:1", amd64, false)
		wantError(t, err, nil, "502 Bad Gateway", "")
		if n := rec.Count("/manifests/"); n != 3 {
			t.Errorf("asked %d times, want 3", n)
		}
	})
	t.Run("refused", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		host := l.Addr().String()
		l.Close()
		_, err = newImages(t).Resolve(t.Context(), host+"/app:1", amd64, false)
		wantError(t, err, nil, "connection refused", "nothing listens there")
	})
	t.Run("cut config", func(t *testing.T) {
		host := testkit.Registry(t, testkit.CutBlobs(10))
		ref := testkit.PushImage(t, host, "app:1", img)
		_, err := newImages(t).Resolve(t.Context(), ref, amd64, false)
		wantError(t, err, nil, "cut after 10 of ", "")
	})
	t.Run("damaged config", func(t *testing.T) {
		host := testkit.Registry(t, testkit.DamageBlobs())
		ref := testkit.PushImage(t, host, "app:1", img)
		_, err := newImages(t).Resolve(t.Context(), ref, amd64, false)
		wantError(t, err, nil, "the bytes that came have the digest sha256:", "")
	})
	t.Run("name", func(t *testing.T) {
		_, err := newImages(t).Resolve(t.Context(), "Not A Name", amd64, false)
		wantError(t, err, nil, "Not A Name: ", "HOST")
	})
}

// serve answers with one manifest, whatever is asked for.
func serve(t *testing.T, mediaType, body string) (ref string) {
	host := testkit.Registry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", mediaType)
			io.WriteString(w, body)
		})
	})
	return host + "/app:1"
}

func TestBadManifests(t *testing.T) {
	testConfig(t)
	const oci = "application/vnd.oci.image.manifest.v1+json"
	sum := digest.Of(nil).String()
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + sum + `","size":2}`
	for _, c := range []struct{ mediaType, body, want string }{
		{"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		{oci, `{`, "manifest: unexpected end of JSON"},
		{oci, `null`, "unsupported media type"},
		{"text/html", `{"schemaVersion":2}`, `unsupported media type "text/html"`},
		{oci, `{"schemaVersion":2,` + config + `,"manifests":[{"digest":"` + sum + `"}]}`, "an index as well"},
		{oci, `{"schemaVersion":2,"manifests":[{"digest":"` + sum + `"}]}`, "no manifest of type"},
		{oci, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}`, "not a container image"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, "sha256:", "sha512:", 1) + `}`, "only sha256"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, `"size":2`, `"size":99999999999`, 1) + `}`, "more than the"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, `"size":2`, `"size":-1`, 1) + `}`, "more than the"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[]}`, "there is none"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[{"digest":"../../x"}]}`, "only sha256"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[{"digest":"` + sum + `"}]}`, "the bytes that came have the digest"},
		{oci, strings.Repeat(" ", maxManifest+1), "more than"},
	} {
		m := newImages(t)
		_, err := m.Resolve(t.Context(), serve(t, c.mediaType, c.body), amd64, false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: error = %v, want %q", c.body, err, c.want)
		}
	}
}

// The layer counts of manifest and config differ.
func TestLayerCount(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	img := smallImage(t)
	testkit.PushImage(t, host, "app:1", img)
	man, _ := img.Manifest()
	man = man.DeepCopy()
	man.Layers = man.Layers[:1]
	raw, _ := json.Marshal(man)
	r, _ := name.ParseReference(host+"/app:2", name.Insecure)
	if err := remote.Put(r.(name.Tag), rawManifest(raw)); err != nil {
		t.Fatal(err)
	}
	_, err := newImages(t).Resolve(t.Context(), r.Name(), amd64, false)
	if err == nil || !strings.Contains(err.Error(), "1 layers, its config 2") {
		t.Errorf("error = %v", err)
	}
}

type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)        { return m, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func TestCredentials(t *testing.T) {
	file := testConfig(t)
	host := testkit.Registry(t, testkit.BasicAuth("me", "secret"))
	config := fmt.Sprintf(`{"auths":{%q:{"username":"me","password":"secret"}}}`, host)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newImages(t)
	ref := host + "/app:1"
	img := smallImage(t)
	if err := m.client.Push(t.Context(), ref, img, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Resolve(t.Context(), ref, amd64, false); err != nil {
		t.Fatal(err)
	}
}

func TestUserAgent(t *testing.T) {
	testConfig(t)
	var agent atomic.Value
	host := testkit.Registry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			agent.Store(r.UserAgent())
			next.ServeHTTP(w, r)
		})
	})
	newImages(t).Resolve(t.Context(), host+"/app:1", amd64, false)
	if a, _ := agent.Load().(string); !strings.HasPrefix(a, "build/test") {
		t.Errorf("User-Agent = %q", a)
	}
}

// A blob whose download is cut comes in pieces, when the registry knows Range and when it does not; the
// registry gets three tries.
func TestResume(t *testing.T) {
	testConfig(t)
	content := bytes.Repeat([]byte("0123456789"), 1000)
	for _, c := range []struct {
		ranges bool
		cut    int
		ok     bool
	}{{true, 4000, true}, {false, 9000, false}, {true, 100, false}} {
		var tries atomic.Int32
		host := testkit.Registry(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					next.ServeHTTP(w, r)
					return
				}
				tries.Add(1)
				if !c.ranges {
					r.Header.Del("Range")
				}
				http.ServeContent(&cutWriter{w, c.cut}, r, "", time.Time{}, bytes.NewReader(content))
			})
		})
		m := newImages(t)
		b := snapshot.Blob{Digest: digest.Of(content), Size: int64(len(content)), Origins: []string{host + "/app"}}
		var last int64
		m.client.Progress = func(_ snapshot.Blob, done int64) { last = done }
		err := m.layers.Pull(t.Context(), b)
		if (err == nil) != c.ok || tries.Load() != 3 {
			t.Errorf("%+v: %v after %d tries", c, err, tries.Load())
		}
		if c.ok && last != b.Size {
			t.Errorf("%+v: progress ended at %d", c, last)
		}
		if !c.ok && !strings.Contains(err.Error(), fmt.Sprintf("of %d bytes", len(content))) {
			t.Errorf("%+v: error = %v", c, err)
		}
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// A layer with damaged bytes is refused, and the store has nothing of it.
func TestDamagedLayer(t *testing.T) {
	testConfig(t)
	good, bad := testkit.Registry(t), testkit.Registry(t, testkit.Fail("/nope/", http.StatusNotFound), testkit.DamageBlobs())
	img := smallImage(t)
	m := newImages(t)
	r, err := m.Resolve(t.Context(), testkit.PushImage(t, good, "app:1", img), amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	testkit.PushImage(t, bad, "app:1", img)
	blobs, err := m.layers.Blobs(r.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	b := blobs[0]
	b.Origins = []string{bad + "/app"}
	if err := m.layers.Pull(t.Context(), b); err == nil || !strings.Contains(err.Error(), "have the digest") {
		t.Errorf("Pull = %v", err)
	}
	if _, ok := m.disk.BlobSize(b.Digest); ok {
		t.Error("the damaged blob is in the store")
	}
	b.Origins = []string{bad + "/nope", good + "/app"} // the second origin has it
	if err := m.layers.Pull(t.Context(), b); err != nil {
		t.Error(err)
	}
}

// What the store has lost is asked for again; what was built here cannot be.
func TestLost(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	ref := testkit.PushImage(t, host, "app:1", smallImage(t))
	m := newImages(t)
	r, err := m.Resolve(t.Context(), ref, amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.disk.RemoveBlob(r.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Resolve(t.Context(), ref, amd64, false); err != nil {
		t.Errorf("pulled: %v", err)
	}
	if err := m.Tag(t.Context(), host+"/mine:1", r.Config); err != nil {
		t.Fatal(err)
	}
	if r, err := m.Resolve(t.Context(), host+"/mine:1", amd64, false); err != nil || !r.Built {
		t.Fatalf("built: %+v, %v", r, err)
	}
	if err := m.disk.RemoveBlob(r.Config); err != nil {
		t.Fatal(err)
	}
	_, err = m.Resolve(t.Context(), host+"/mine:1", amd64, false)
	wantError(t, err, ErrNotFound, "mine:1", "build it again")
}

// Layers that the registry has are mounted or left alone.
func TestPushMounts(t *testing.T) {
	testConfig(t)
	var rec testkit.Recorder
	var mounts atomic.Int32
	// The registry of the tests has one set of blobs for all repositories: this one keeps them apart.
	host := testkit.Registry(t, rec.Record, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/app/blobs/"):
				w.WriteHeader(http.StatusNotFound)
			case r.URL.Query().Get("from") == "base":
				mounts.Add(1)
				w.WriteHeader(http.StatusCreated)
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
	img := smallImage(t)
	testkit.PushImage(t, host, "base:1", img)
	rec.Reset()
	origins := map[digest.Digest][]string{}
	layers, _ := img.Layers()
	for _, l := range layers {
		h, _ := l.Digest()
		d, _ := digest.Parse(h.String())
		origins[d] = []string{"other.example/base", host + "/base"}
	}
	var done, total int64
	c := NewClient("test")
	err := c.Push(t.Context(), host+"/app:1", img, origins, func(d, n int64) { done, total = d, n })
	if err != nil {
		t.Fatal(err)
	}
	if n := rec.Count("PATCH"); n != 1 || mounts.Load() != 2 {
		t.Errorf("%d blobs were mounted and %d sent, want the layers and the config: %v", mounts.Load(), n, rec.Requests())
	}
	if done == 0 || done != total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	rec.Reset()
	if err := c.Push(t.Context(), host+"/app:1", img, origins, nil); err != nil || rec.Count("POST")+rec.Count("PUT")+rec.Count("PATCH") != 0 {
		t.Errorf("second push: %v, %v", err, rec.Requests())
	}
}

func TestPushErrors(t *testing.T) {
	testConfig(t)
	img := smallImage(t)
	c := NewClient("test")
	host := testkit.Registry(t, testkit.Unauthorized())
	wantError(t, c.Push(t.Context(), host+"/app:1", img, nil, nil), ErrUnauthorized, host+"/app:1", "docker login")
	host = testkit.Registry(t, testkit.Fail("POST /v2/app/blobs/uploads", http.StatusForbidden))
	wantError(t, c.Push(t.Context(), host+"/app:1", img, nil, nil), ErrUnauthorized, "403", "docker login")
	wantError(t, c.Push(t.Context(), "app@"+digest.Of(nil).String(), img, nil, nil), nil, "digest", "tag")
}

func TestRedirects(t *testing.T) {
	req := func(u string) *http.Request { r, _ := http.NewRequest("GET", u, nil); return r }
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"https://r.example/v2/x", "https://cdn.example/x", true},
		{"https://r.example/v2/x", "http://cdn.example/x", false},
		{"https://r.example/v2/x", "https://169.254.169.254/x", false},
		{"https://r.example/v2/x", "https://[::1]/x", false},
		{"http://127.0.0.1:5000/v2/x", "http://127.0.0.1:5001/x", true},
	} {
		if err := checkRedirect(req(c.to), []*http.Request{req(c.from)}); (err == nil) != c.ok {
			t.Errorf("%s -> %s: %v", c.from, c.to, err)
		}
	}
}

// Plain HTTP is for this machine alone.
func TestPlainHTTP(t *testing.T) {
	testConfig(t)
	c := NewClient("test")
	for host, ok := range map[string]bool{"10.1.2.3:5000": false, "registry.local": false, "169.254.169.254": false, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/", nil)
		_, err := c.transport.RoundTrip(req)
		if refused := err != nil && strings.Contains(err.Error(), "TLS"); refused == ok {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// An image of the store for another platform is named when no registry has a better one.
func TestBuiltForAnotherPlatform(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	m := newImages(t)
	img := testImage(host+"/mine:1", "linux/s390x", 1)
	img.Built = true
	put(t, m, img)
	_, err := m.Resolve(t.Context(), host+"/mine:1", amd64, false)
	wantError(t, err, ErrPlatform, "there is linux/s390x", "--platform")
}

// A registry may lose layers after it gave the manifest.
func TestLostLayer(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t, testkit.Fail("GET /v2/gone/blobs/", http.StatusNotFound))
	m := newImages(t)
	layer := t.TempDir()
	for _, origin := range []string{host + "/gone", layoutScheme + layer} {
		err := m.layers.Pull(t.Context(), snapshot.Blob{Digest: digest.Of([]byte("x")), Size: 1, Origins: []string{origin}})
		wantError(t, err, nil, "lost a layer", "--pull")
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"arm"}}]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[null]}`), "application/vnd.oci.image.manifest.v1+json")
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		doc, isIndex, err := parseManifest(manifest{raw, mediaType})
		if err != nil {
			return
		}
		if isIndex {
			_, _ = pickPlatform(doc.Manifests, amd64)
		}
		for _, l := range doc.Layers {
			_, _ = blobOf(l, layout{"/x"})
		}
	})
}
