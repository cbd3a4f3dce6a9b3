package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A builds makes Remotes of builds that share a store.
type builds struct {
	disk    *cache.Store
	layers  *snapshot.Store
	n       int
	secrets map[string]string
}

func newBuilds(t *testing.T) *builds {
	t.Helper()
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &builds{disk: disk, layers: snapshot.New(disk, nil), secrets: map[string]string{}}
}

func (b *builds) next() *Remote {
	b.n++
	return b.process(strconv.Itoa(b.n))
}

// process returns the Remote of one more process of a build.
func (b *builds) process(build string) *Remote {
	r := NewRemote(b.disk, b.layers, "test", build)
	r.Secrets = func(id string) ([]byte, bool, error) { v, ok := b.secrets[id]; return []byte(v), ok, nil }
	return r
}

// files pins and fetches op and returns the files as text.
func (b *builds) files(t *testing.T, r *Remote, op llb.Op) string {
	t.Helper()
	if _, err := r.Pin(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	chain, err := r.Fetch(t.Context(), op)
	if err != nil {
		t.Fatal(err)
	}
	return b.list(t, chain)
}

func (b *builds) list(t *testing.T, chain digest.Digest) string {
	t.Helper()
	view, err := b.layers.View(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
		if e.Type == snapshot.Regular {
			r, err := view.Open(e)
			if err != nil {
				return false, err
			}
			defer r.Close()
			text, err := io.ReadAll(r)
			if err != nil {
				return false, err
			}
			fmt.Fprintf(&out, "%04o %d:%d %s %q @%d\n", e.Mode, e.UID, e.GID, e.Path, text, e.Mtime)
		} else if e.Path != "." {
			fmt.Fprintf(&out, "%04o %d:%d %s %c%s\n", e.Mode, e.UID, e.GID, e.Path, e.Type, e.Link)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A site is a server that says what it was asked.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func newSite(t *testing.T, h http.HandlerFunc) *site {
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s%s %s", r.Method, r.URL.Path,
			r.Header.Get("If-None-Match"), r.Header.Get("If-Modified-Since"), r.Header.Get("Authorization"))))
		s.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// requests returns what the server was asked since the last call.
func (s *site) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.asked = nil }()
	return strings.Join(s.asked, "\n")
}

const oldDate = "Sun, 09 Sep 2001 01:46:40 GMT" // 1000000000

func TestURLIsAFile(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", oldDate)
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "hello")
	})
	b := newBuilds(t)
	for path, want := range map[string]string{
		"/plain":   "0600 0:0 f \"hello\" @1000000000\n",
		"/chunked": "0600 0:0 f \"hello\" @1000000000\n", // no size is said before
	} {
		if got := b.files(t, b.next(), &llb.HTTP{URL: s.URL + path, Filename: "f"}); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// An unchanged file is asked for once per build, and downloaded once.
func TestURLRevalidation(t *testing.T) {
	content, tag := "one", `"1"`
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		// what the second build asks when nothing has changed, after the path
		condition string
	}{
		"etag": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", tag)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		}, `"1"`},
		"weakened etag": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", "W/"+tag)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		}, `W/"1"`},
		"conditions are not known": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", tag)
			io.WriteString(w, content)
		}, `"1"`},
		"time": {func(w http.ResponseWriter, r *http.Request) {
			modified := time.Unix(1e9, 0)
			if content != "one" {
				modified = time.Unix(1.1e9, 0)
			}
			http.ServeContent(w, r, "", modified, strings.NewReader(content))
		}, oldDate},
		"just written": {func(w http.ResponseWriter, r *http.Request) { // the next change may leave the time as it is
			http.ServeContent(w, r, "", time.Now(), strings.NewReader(content))
		}, ""},
		"nothing": {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			content, tag = "one", `"1"`
			s, b := newSite(t, tt.serve), newBuilds(t)
			op := &llb.HTTP{URL: s.URL + "/f", Filename: "f"}
			build := func() (digest.Digest, string) {
				r := b.next()
				pin, err := r.Pin(t.Context(), op)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.process(r.build).Pin(t.Context(), op); err != nil { // asks nothing
					t.Fatal(err)
				}
				return pin, b.files(t, r, op)
			}
			first, _ := build()
			s.requests()
			second, files := build()
			if second != first || !strings.Contains(files, `"one"`) {
				t.Errorf("the second build sees something else: %s", files)
			}
			if got, want := s.requests(), strings.TrimSpace("GET /f "+tt.condition); got != want {
				t.Errorf("asked %q, want %q", got, want)
			}
			content, tag = "two", `"2"`
			if third, files := build(); third == first || !strings.Contains(files, `"two"`) {
				t.Errorf("the change is not seen: %s", files)
			}
		})
	}
}

func TestURLChecksum(t *testing.T) {
	content := "hello"
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) })
	b := newBuilds(t)
	op := &llb.HTTP{URL: s.URL + "/f", Filename: "f", Checksum: digest.Of([]byte(content))}
	r := b.next()
	if _, err := r.Pin(t.Context(), op); err != nil || s.requests() != "" {
		t.Fatalf("a checksum says it all: %v", err)
	}
	if _, err := r.Fetch(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	if got := b.files(t, b.next(), op); !strings.Contains(got, "hello") || s.requests() != "GET /f" {
		t.Errorf("what is there is fetched again: %s", got)
	}
	content = "other"
	b = newBuilds(t)
	_, err := b.next().Fetch(t.Context(), op)
	if err == nil || !strings.Contains(err.Error(), "digest mismatch: sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa (expected: sha256:2cf24d") {
		t.Errorf("error %v", err)
	}
	b.disk.Close()
	if left, _ := os.ReadDir(b.disk.Path("tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

func TestURLErrors(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	patience = 50 * time.Millisecond
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/down":
			panic(http.ErrAbortHandler)
		case "/cut-chunk":
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/stall":
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
		}
	})
	host := strings.TrimPrefix(s.URL, "http://")
	for path, want := range map[string]string{
		"/404":       "invalid response status 404 Not Found",
		"/401":       "invalid response status 401 Unauthorized",
		"/403":       "invalid response status 403 Forbidden",
		"/400":       "invalid response status 400 Bad Request",
		"/304":       "invalid response status 304 Not Modified",
		"/cut":       "the download was cut after 4 of 100 bytes",
		"/cut-chunk": "the server cut the connection",
		"/down":      "the server cut the connection",
		"/stall":     errStalled.Error(),
		"/loop":      "more than 10 redirects",
	} {
		b := newBuilds(t)
		op := &llb.HTTP{URL: "http://user:password@" + host + path + "?token=x", Filename: "f"}
		_, err := b.next().Pin(t.Context(), op)
		var far *RemoteError
		if !errors.As(err, &far) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), s.URL+path+": ") {
			t.Errorf("%s: error %v", path, err)
			continue
		}
		for _, secret := range []string{"user", "password", "token=x"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: error %v", path, err)
			}
		}
	}
	b := newBuilds(t)
	for address, want := range map[string]string{
		"http:///f":                    "the URL names no host",
		"http://nosuchhost.invalid/f":  "nosuchhost.invalid",
		"http://127.0.0.1:1/f":         "connection refused",
		"http://u:p@bad\x7fhost/f?t=x": "invalid control character",
	} {
		_, err := b.next().Pin(t.Context(), &llb.HTTP{URL: address, Filename: "f"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", address, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := b.next().Pin(ctx, &llb.HTTP{URL: s.URL + "/404", Filename: "f"}); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause of the end", err)
	}
}

// Credentials are for the host that they name, and stay there.
func TestURLCredentials(t *testing.T) {
	other := newSite(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "other") })
	var s *site
	s = newSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/there", http.StatusFound)
		case "/back": // by way of another
			http.Redirect(w, r, strings.Replace(s.URL, "127.0.0.1", "localhost", 1)+"/away", http.StatusFound)
		default:
			io.WriteString(w, "hello")
		}
	})
	b := newBuilds(t)
	pin := func(path string) {
		t.Helper()
		u, _ := url.Parse(s.URL + path)
		if _, err := b.next().Pin(t.Context(), &llb.HTTP{URL: u.String(), Filename: "f"}); err != nil {
			t.Fatal(err)
		}
	}
	b.secrets["HTTP_AUTH_HEADER_127.0.0.1"] = "Custom abc\n"
	pin("/f")
	b.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = "tok"
	pin("/g")
	if got, want := s.requests(), "GET /f  Custom abc\nGET /g  Bearer tok"; got != want {
		t.Errorf("asked %q", got)
	}
	pin("/away")
	pin("/back")
	if got, want := s.requests(), "GET /away  Bearer tok\nGET /back  Bearer tok\nGET /away"; got != want {
		t.Errorf("asked %q", got)
	}
	if got := other.requests(); got != "GET /there\nGET /there" {
		t.Errorf("the other host is told %q", got)
	}
	b.secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = "two\nlines"
	if _, err := b.next().Pin(t.Context(), &llb.HTTP{URL: s.URL + "/x", Filename: "f"}); err == nil || strings.Contains(err.Error(), "lines\"") {
		t.Errorf("error %v", err)
	}
}

// A host outside does not get at what is on this machine.
func TestURLRedirectInside(t *testing.T) {
	req := func(address string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for to, ok := range map[string]bool{
		"http://127.0.0.1/": false, "http://localhost:1/": false, "http://169.254.169.254/latest": false, "http://[::1]/": false,
		"https://other.example/": true, "http://example.com/": true,
	} {
		if err := checkURLRedirect(req(to), []*http.Request{req("https://example.com/")}); (err == nil) != ok {
			t.Errorf("%s: %v", to, err)
		}
	}
	down := req("http://example.com/")
	down.Header.Set("Authorization", "x")
	if checkURLRedirect(down, []*http.Request{req("https://example.com/")}); down.Header.Get("Authorization") != "" {
		t.Error("credentials go out without encryption")
	}
}
