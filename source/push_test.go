package source

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
)

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
	err := c.Push(t.Context(), host+"/app:1", img, PushOptions{Origins: origins, Progress: func(d, n int64) { done, total = d, n }})
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
	if err := c.Push(t.Context(), host+"/app:1", img, PushOptions{Origins: origins}); err != nil || rec.Count("POST")+rec.Count("PUT")+rec.Count("PATCH") != 0 {
		t.Errorf("second push: %v, %v", err, rec.Requests())
	}
}

func TestPushErrors(t *testing.T) {
	testConfig(t)
	img := smallImage(t)
	c := NewClient("test")
	host := testkit.Registry(t, testkit.Unauthorized())
	wantError(t, c.Push(t.Context(), host+"/app:1", img, PushOptions{}), ErrUnauthorized, host+"/app:1", "docker login")
	host = testkit.Registry(t, testkit.Fail("POST /v2/app/blobs/uploads", http.StatusForbidden))
	wantError(t, c.Push(t.Context(), host+"/app:1", img, PushOptions{}), ErrUnauthorized, "403", "docker login")
	wantError(t, c.Push(t.Context(), "app@"+digest.Of(nil).String(), img, PushOptions{}), nil, "digest", "tag")
}

// A certificate that nobody knows is good enough for those who say so.
func TestPushInsecure(t *testing.T) {
	testConfig(t)
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ref := server.Listener.Addr().String() + "/app:1"
	c := NewClient("test")
	wantError(t, c.Push(t.Context(), ref, smallImage(t), PushOptions{}), nil, "certificate of the registry is not trusted", "certs.d")
	if err := c.Push(t.Context(), ref, smallImage(t), PushOptions{Insecure: true}); err != nil {
		t.Error(err)
	}
}
