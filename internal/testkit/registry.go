// Package testkit helps the tests of all packages: a registry on loopback that can be told to
// fail, a tiny base image, file trees written from and compared as text, an ordinary user to become, and
// waiting for what other processes do.
//
// It imports nothing of this module, so that every package can use it.
package testkit

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Middleware changes how a registry answers.
type Middleware func(http.Handler) http.Handler

// Registry starts an empty registry on loopback, over plain HTTP, and returns its host, like
// "127.0.0.1:41234". It is gone when the test ends. The first middleware sees a request first.
func Registry(t testing.TB, with ...Middleware) (host string) {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	for _, m := range slices.Backward(with) {
		handler = m(handler)
	}
	return Serve(t, handler)
}

// Serve starts a server on loopback, over plain HTTP, and returns its host. It is gone when the test ends.
func Serve(t testing.TB, handler http.Handler) (host string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// PushImage pushes img and returns its reference, "host/repository:tag". The options are for
// a registry that asks who is there.
func PushImage(t testing.TB, host, tag string, img v1.Image, options ...remote.Option) (ref string) {
	t.Helper()
	r, err := name.ParseReference(host+"/"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img, options...); err != nil {
		t.Fatalf("push of %s: %v", r, err)
	}
	return r.Name()
}

// BasicAuth lets only that user in.
func BasicAuth(user, password string) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="testkit"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		})
	}
}

// Unauthorized lets nobody in, whatever he says.
func Unauthorized() Middleware {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="testkit"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		})
	}
}

// Fail answers requests whose method and path contain text, like "GET /v2/app/manifests/", with an HTTP
// status and no more than that.
func Fail(text string, status int) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Method+" "+r.URL.Path, text) {
				refuse(w, status, "UNKNOWN", http.StatusText(status))
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// CutBlobs breaks the connection after n bytes of each blob that is larger.
func CutBlobs(n int) Middleware {
	return onBlobs(func(w http.ResponseWriter) io.Writer { return &cutter{w, n} })
}

type cutter struct {
	to   http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.to.Write(p[:c.left])
		http.NewResponseController(c.to).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.to.Write(p)
}

// DamageBlobs changes a bit in the first byte of each blob.
func DamageBlobs() Middleware {
	return onBlobs(func(w http.ResponseWriter) io.Writer { return &damager{to: w} })
}

type damager struct {
	to   http.ResponseWriter
	done bool
}

func (d *damager) Write(p []byte) (int, error) {
	if !d.done && len(p) > 0 {
		p = slices.Clone(p)
		p[0] ^= 1
		d.done = true
	}
	return d.to.Write(p)
}

// onBlobs sends the blobs that are downloaded through a writer.
func onBlobs(through func(http.ResponseWriter) io.Writer) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = &bodyWriter{w, through(w)}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// A bodyWriter is a response whose body goes through another writer.
type bodyWriter struct {
	http.ResponseWriter
	body io.Writer
}

func (b *bodyWriter) Write(p []byte) (int, error) { return b.body.Write(p) }

// A Recorder notes the requests that reach a registry, so that a test can tell that there was none.
// Its zero value is ready for use as a Middleware: Registry(t, rec.Record).
type Recorder struct {
	mu       sync.Mutex
	requests []string
	more     chan struct{} // closed when there is another request; nil when nobody waits
}

// Record is a Middleware.
func (c *Recorder) Record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.requests = append(c.requests, r.Method+" "+r.URL.Path)
		if c.more != nil {
			close(c.more)
			c.more = nil
		}
		c.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// Requests returns the requests so far, in order, each like "GET /v2/app/manifests/1".
func (c *Recorder) Requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Count returns how many requests contain text; "" counts them all.
func (c *Recorder) Count(text string) int {
	n := 0
	for _, r := range c.Requests() {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

// Await waits for a request that contains text, unless there was one already.
func (c *Recorder) Await(ctx context.Context, text string) error {
	for {
		c.mu.Lock()
		found := slices.ContainsFunc(c.requests, func(r string) bool { return strings.Contains(r, text) })
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		if found {
			return nil
		}
		if ctx.Err() != nil { // and the requests were looked at after it ended
			return fmt.Errorf("no request contains %q: %w", text, context.Cause(ctx))
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

// Reset forgets all requests.
func (c *Recorder) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = nil
}
