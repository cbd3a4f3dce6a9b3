package source

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

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
	for host, ok := range map[string]bool{"10.1.2.3:5000": false, "registry.local": false, "169.254.169.254": false, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/", nil)
		c, err := newTransport(itself(host))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.RoundTrip(req)
		if refused := err != nil && strings.Contains(err.Error(), "TLS"); refused == ok {
			t.Errorf("%s: %v", host, err)
		}
	}
}
