package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Requests that fail on the way are tried three times in all, 0.2 and 0.6 seconds
// apart: enough for a registry that restarts a worker, short enough for a wrong host name.
var backoff = transport.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}

// retriedCodes are answers that another try may change.
var retriedCodes = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
	http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// transient reports whether a failed request is worth another try. A timeout is not: it has
// waited long enough. What the registry answers is not either, but for retriedCodes.
func transient(err error) bool {
	var timeout net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return false
	case isCut(err), errors.Is(err, syscall.ECONNREFUSED):
		return true
	}
	temporary, ok := err.(interface{ Temporary() bool }) // what the library makes of retriedCodes
	return ok && temporary.Temporary()
}

// isCut reports whether err says that the other side ended the connection.
func isCut(err error) bool {
	for _, e := range []error{io.ErrUnexpectedEOF, io.EOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// newTransport returns the transport to a server under all authentication.
func newTransport(e endpoint) (http.RoundTripper, error) {
	config, err := e.config()
	if err != nil {
		return nil, err
	}
	return resuming{guarded{e, &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		// A registry may think for long about a large layer, but not for ever.
		ResponseHeaderTimeout: 5 * time.Minute,
		// Layers are compressed already, and offsets must be those of the bytes that are sent.
		DisableCompression: true,
	}}}, nil
}

var errNoTLS = errors.New("is not spoken to without TLS")

// guarded is a transport to an endpoint that does without TLS only where the endpoint may, or on this machine. The
// library would try it with private addresses too, where anyone on the way could then have the credentials.
type guarded struct {
	endpoint
	inner http.RoundTripper
}

func (t guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	ours := req.URL.Host == t.host
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Hostname()) && !(ours && t.plain) {
		return nil, fmt.Errorf("%s %w: it is not this machine", req.URL.Host, errNoTLS)
	}
	if ours {
		req = t.address(req)
	}
	return t.inner.RoundTrip(req)
}

// address gives a request to the endpoint what the endpoint wants in it.
func (t guarded) address(req *http.Request) *http.Request {
	if t.of == "" && t.root == "" && len(t.header) == 0 {
		return req
	}
	req = req.Clone(req.Context())
	if rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"); ok && t.root != "" {
		req.URL.Path = t.root + "/" + rest
	}
	if t.of != "" { // a mirror of many registries needs to know which one is meant
		q := req.URL.Query()
		q.Set("ns", t.of)
		req.URL.RawQuery = q.Encode()
	}
	for k, v := range t.header {
		if req.Header.Get(k) == "" {
			req.Header[k] = v
		}
	}
	return req
}

// withRetries adds tries to t for the requests we make ourselves; the library adds them to its own.
func withRetries(t http.RoundTripper, userAgent string) http.RoundTripper {
	t = transport.NewRetry(t, transport.WithRetryBackoff(backoff), transport.WithRetryPredicate(transient), transport.WithRetryStatusCodes(retriedCodes...))
	return transport.NewUserAgent(t, userAgent)
}

// resuming is a transport whose answers survive a cut connection: the rest of the body is asked for
// with a Range header. Blobs are named by their digest, so the rest is of the same bytes.
type resuming struct{ inner http.RoundTripper }

func (t resuming) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.inner.RoundTrip(req)
	if err == nil && req.Method == http.MethodGet && resp.StatusCode == http.StatusOK && strings.Contains(req.URL.Path, "/blobs/") {
		resp.Body = &resumed{body: resp.Body, req: req, inner: t.inner, wait: backoff}
	}
	return resp, err
}

type resumed struct {
	body  io.ReadCloser
	at    int64 // how many bytes were read
	req   *http.Request
	inner http.RoundTripper
	wait  transport.Backoff
}

func (b *resumed) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 && err != nil && err != io.EOF {
			return n, nil // the next call meets the error again
		}
		if err == nil || err == io.EOF || b.req.Context().Err() != nil || b.wait.Steps <= 1 {
			return n, err
		}
		body, again := b.reopen()
		if again != nil {
			return n, err // the first cause tells more
		}
		b.body.Close()
		b.body = body
	}
}

func (b *resumed) reopen() (io.ReadCloser, error) {
	select {
	case <-b.req.Context().Done():
		return nil, context.Cause(b.req.Context())
	case <-time.After(b.wait.Step()):
	}
	req := b.req.Clone(b.req.Context())
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	resp, err := b.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.at)):
		return resp.Body, nil
	case resp.StatusCode == http.StatusOK: // all of it again
		if _, err = io.CopyN(io.Discard, resp.Body, b.at); err == nil {
			return resp.Body, nil
		}
	default:
		err = fmt.Errorf("unexpected status %s", resp.Status)
	}
	resp.Body.Close()
	return nil, err
}

func (b *resumed) Close() error { return b.body.Close() }

// checkRedirect keeps a registry from leading us to weaker or to inner places: it may send us to another
// host for a blob, but not from https to http, nor from outside to this machine or its link.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) >= 10:
		return errors.New("more than 10 redirects")
	case from.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("redirect from %s to %s gives up encryption", from.Host, req.URL.Host)
	case isInner(req.URL.Hostname()) && !isInner(from.Hostname()):
		return fmt.Errorf("redirect from %s to %s, which is on this machine or its link", from.Host, req.URL.Host)
	}
	return nil
}

func isInner(host string) bool {
	ip := net.ParseIP(host)
	return isLoopback(host) || ip != nil && (ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
