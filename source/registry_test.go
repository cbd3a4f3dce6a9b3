package source

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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

// pushed returns a registry that has an image as app:1.
func pushed(t *testing.T) (host string, img v1.Image) {
	t.Helper()
	testConfig(t)
	host, img = testkit.Registry(t), smallImage(t)
	testkit.PushImage(t, host, "app:1", img)
	return host, img
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
	if err := m.client.Push(t.Context(), ref, img, PushOptions{}); err != nil {
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
