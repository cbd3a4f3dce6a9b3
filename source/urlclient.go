package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// newURLClient returns the client for URLs of Dockerfiles and command lines. Proxies are those of the environment.
func newURLClient(userAgent string) *http.Client {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: patience,
		// The bytes are those that the server has, and their number is what it says.
		DisableCompression: true,
	}
	return &http.Client{Transport: withRetries(t, userAgent), CheckRedirect: checkURLRedirect}
}

// checkURLRedirect follows redirects, but hands credentials to nobody but the host they are for, and only as well
// encrypted as they were. A host outside may not point at this machine or its link.
func checkURLRedirect(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) >= 10:
		return errors.New("more than 10 redirects")
	case isInner(req.URL.Hostname()) && !isInner(from.Hostname()):
		return fmt.Errorf("redirect from %s to %s, which is on this machine or its link", from.Host, req.URL.Host)
	}
	if req.URL.Host != from.Host || from.Scheme == "https" && req.URL.Scheme != "https" {
		req.Header.Del("Authorization")
	}
	return nil
}

// patience is how long a server may say nothing. Tests have less.
var patience = time.Minute

var errStalled = errors.New("the server has sent nothing for a minute")

// impatient is a body that fails when nothing comes of it for too long.
type impatient struct {
	io.ReadCloser
	timer   *time.Timer
	expired atomic.Bool
}

func newImpatient(body io.ReadCloser, cancel context.CancelCauseFunc) *impatient {
	b := &impatient{ReadCloser: body}
	b.timer = time.AfterFunc(patience, func() { b.expired.Store(true); cancel(errStalled) })
	b.timer.Stop() // whoever reads may take as long as they like for what they have read
	return b
}

func (b *impatient) Read(p []byte) (int, error) {
	b.timer.Reset(patience)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && b.expired.Load() {
		err = errStalled
	}
	return n, err
}
