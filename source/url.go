package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A urlPlace is what a URL gives.
type urlPlace struct {
	*Remote
	op   *llb.HTTP
	want digest.Digest // of the bytes, once it is known
	seen urlRecord
}

// A urlRecord is what a URL gave last.
type urlRecord struct {
	ETag     string        `json:"etag,omitempty"`
	Modified string        `json:"modified,omitempty"` // Last-Modified, if it can stand in for an ETag
	Digest   digest.Digest `json:"digest"`             // of the bytes
	Chain    digest.Digest `json:"chain"`              // with the bytes as a file
	Build    string        `json:"build"`              // that asked last
}

func (p *urlPlace) record() string { return remoteRecord("url", p.op.URL, p.op.Filename) }

// pin implements place. A checksum says it all. Otherwise the server is asked whether it still has what it gave last;
// if it has something else, that is downloaded, since there is no other way to name it.
func (p *urlPlace) pin(ctx context.Context) (digest.Digest, error) {
	if p.want = p.op.Checksum; p.want.IsZero() {
		if err := p.revalidate(ctx); err != nil {
			return digest.Digest{}, err
		}
		p.want = p.seen.Digest
	}
	h := digest.NewHasher("pin.http/v1")
	h.String("filename", p.op.Filename)
	h.Digest("bytes", p.want)
	return h.Sum(), nil
}

func (p *urlPlace) revalidate(ctx context.Context) error {
	unlock, err := p.disk.Lock(ctx, p.record())
	if err != nil {
		return err
	}
	defer unlock()
	p.readRecord(p.record(), &p.seen)
	if p.seen.Build == p.build {
		return nil
	}
	resp, stop, err := p.get(ctx, &p.seen)
	if err != nil {
		return err
	}
	defer stop()
	if p.seen.unchanged(resp) {
		p.seen.Build = p.build
		return p.writeRecord(p.record(), &p.seen)
	}
	return p.download(ctx, resp)
}

// fetch implements place.
func (p *urlPlace) fetch(ctx context.Context) (digest.Digest, error) {
	unlock, err := p.disk.Lock(ctx, p.record())
	if err != nil {
		return digest.Digest{}, err
	}
	defer unlock()
	p.readRecord(p.record(), &p.seen)
	if p.seen.Digest == p.want && !p.seen.Chain.IsZero() {
		if ok, err := p.layers.Usable(p.seen.Chain); err != nil || ok {
			return p.seen.Chain, err
		}
	}
	resp, stop, err := p.get(ctx, nil)
	if err != nil {
		return digest.Digest{}, err
	}
	defer stop()
	return p.seen.Chain, p.download(ctx, resp)
}

// unchanged reports whether resp says that what is there is what was there. Some servers know no conditions, but
// answer with the same ETag.
func (s *urlRecord) unchanged(resp *http.Response) bool {
	if s.Digest.IsZero() {
		return false
	}
	if resp.StatusCode == http.StatusNotModified {
		return true
	}
	return s.ETag != "" && sameETag(resp.Header.Get("ETag"), s.ETag)
}

// sameETag compares weakly: many servers weaken the tag of what they might compress on the way.
func sameETag(a, b string) bool { return strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/") }

// get asks for the URL, under the condition that it is not what was seen, if that is not nil. stop must be called.
func (p *urlPlace) get(ctx context.Context, seen *urlRecord) (resp *http.Response, stop func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err = p.request(ctx, seen)
	if err != nil {
		cancel(nil)
		return nil, nil, p.explain(err)
	}
	resp.Body = newImpatient(resp.Body, cancel)
	stop = func() { resp.Body.Close(); cancel(nil) }
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotModified && seen != nil && !seen.Digest.IsZero() {
		return resp, stop, nil
	}
	stop()
	return nil, nil, p.explain(&statusCodeError{resp.StatusCode})
}

func (p *urlPlace) request(ctx context.Context, seen *urlRecord) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.op.URL, nil)
	if err != nil {
		return nil, err
	}
	if req.URL.Host == "" {
		return nil, errors.New("the URL names no host")
	}
	host := req.URL.Hostname()
	id, value, err := p.secret("HTTP_AUTH_TOKEN_"+host, "HTTP_AUTH_HEADER_"+host)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(id, "HTTP_AUTH_TOKEN_") {
		value = "Bearer " + value
	}
	if id != "" {
		req.Header.Set("Authorization", value)
	}
	if seen != nil && !seen.Digest.IsZero() {
		if seen.ETag != "" {
			req.Header.Set("If-None-Match", seen.ETag)
		} else if seen.Modified != "" {
			req.Header.Set("If-Modified-Since", seen.Modified)
		}
	}
	return p.client.Do(req)
}

// download makes a layer of the body, and records it.
func (p *urlPlace) download(ctx context.Context, resp *http.Response) error {
	entry := snapshot.Entry{Path: p.op.Filename, Type: snapshot.Regular, Mode: 0o600, Size: resp.ContentLength, Digest: p.want}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		entry.Mtime = t.Unix()
	}
	var body io.ReadCloser = &counted{ReadCloser: resp.Body, total: resp.ContentLength, report: func(n int64) {
		if p.Progress != nil {
			p.Progress(p.op.Name(), n, resp.ContentLength)
		}
	}}
	if !p.want.IsZero() {
		body = &verified{ReadCloser: body, want: p.want, h: sha256.New()}
	}
	if entry.Size < 0 { // a tar says the size first
		spooled, err := p.spool(body)
		if err != nil {
			return p.explain(err)
		}
		defer spooled.Close()
		fi, err := spooled.Stat()
		if err != nil {
			return err
		}
		entry.Size, body = fi.Size(), spooled
	}
	chain, sum, err := p.layer(ctx, entry, body)
	if err != nil {
		return p.explain(err)
	}
	if p.Progress != nil {
		p.Progress(p.op.Name(), entry.Size, entry.Size)
	}
	p.seen = urlRecord{ETag: resp.Header.Get("ETag"), Modified: strongModified(resp), Digest: sum, Chain: chain, Build: p.build}
	return p.writeRecord(p.record(), &p.seen)
}

// layer writes a layer with one file and returns its chain, and the digest of the file.
func (p *urlPlace) layer(ctx context.Context, e snapshot.Entry, body io.ReadCloser) (chain, sum digest.Digest, err error) {
	empty, err := p.layers.View(ctx, digest.Digest{})
	if err != nil {
		return chain, sum, err
	}
	changes := snapshot.NewChanges(empty)
	if err := changes.Put(e, func() (io.ReadCloser, error) { return body, nil }); err != nil {
		return chain, sum, err
	}
	if chain, err = p.layers.Commit(ctx, digest.Digest{}, changes, snapshot.Making{Created: time.Now()}); err != nil {
		return chain, sum, err
	}
	view, err := p.layers.View(ctx, chain)
	if err != nil {
		return chain, sum, err
	}
	written, _, err := view.Lstat(e.Path)
	return chain, written.Digest, err
}

// spool copies the body into a file without a name.
func (p *urlPlace) spool(body io.Reader) (*os.File, error) {
	dir, err := p.disk.NewTempDir()
	if err != nil {
		return nil, err
	}
	defer dir.Remove() // the open file stays
	f, err := os.OpenFile(dir.Join("body"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, body)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// strongModified returns Last-Modified when a later change cannot have left it as it is: it has whole
// seconds, so it must lie well before the answer.
func strongModified(resp *http.Response) string {
	text := resp.Header.Get("Last-Modified")
	modified, err := http.ParseTime(text)
	if err != nil {
		return ""
	}
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || date.Sub(modified) < time.Minute {
		return ""
	}
	return text
}

// counted reports how much was read of a body, which ends early only with an error.
type counted struct {
	io.ReadCloser
	n, total int64
	report   func(n int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	c.report(c.n)
	if errors.Is(err, io.ErrUnexpectedEOF) && c.total >= 0 {
		err = &cutError{c.n, c.total}
	}
	return n, err
}

// A cutError says that a body ended early.
type cutError struct{ n, total int64 }

func (e *cutError) Error() string {
	return fmt.Sprintf("the download was cut after %d of %d bytes", e.n, e.total)
}

// verified fails at the end when the bytes were not those of want.
type verified struct {
	io.ReadCloser
	want digest.Digest
	h    hash.Hash
}

func (v *verified) Read(b []byte) (int, error) {
	n, err := v.ReadCloser.Read(b)
	v.h.Write(b[:n])
	if err == io.EOF {
		if got := digest.Digest(v.h.Sum(nil)); got != v.want {
			err = &mismatchError{got, v.want}
		}
	}
	return n, err
}

// A mismatchError says that a checksum is not that of what was downloaded.
type mismatchError struct{ got, want digest.Digest }

func (e *mismatchError) Error() string {
	return fmt.Sprintf("digest mismatch: %s (expected: %s)", e.got, e.want)
}

// A statusCodeError is an answer that is none.
type statusCodeError struct{ code int }

func (e *statusCodeError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("invalid response status %d %s", e.code, http.StatusText(e.code)))
}

// explain says what is wrong with a URL.
func (p *urlPlace) explain(err error) error {
	e := &RemoteError{Name: p.op.Name(), Err: err}
	var outer *url.Error // repeats the URL
	if errors.As(err, &outer) {
		e.Err = outer.Err
	}
	host := ""
	if u, err := url.Parse(p.op.URL); err == nil {
		host = u.Hostname()
	}
	var status *statusCodeError
	var mismatch *mismatchError
	var cut *cutError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &status):
		e.Hint = statusHint(status.code, host)
	case errors.As(err, &mismatch):
		e.Err = mismatch
		e.Hint = "if what is at the URL has changed for the better, write its checksum into the Dockerfile"
		if p.op.Checksum.IsZero() {
			e.Hint = "it changed while the build ran; build again"
		}
	case errors.Is(err, errStalled):
		e.Err = errStalled
	case errors.As(err, &cut):
		e.Err, e.Hint = cut, "nothing of it was kept; build again"
	case isCut(err):
		e.Err, e.Hint = errors.New("the server cut the connection"), "nothing of it was kept; build again"
	case errors.As(err, &dns):
		e.Hint = "the name of the host cannot be resolved; behind a proxy, set HTTP_PROXY and HTTPS_PROXY"
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Err, e.Hint = fmt.Errorf("%s did not answer in time: %w", host, e.Err), "behind a proxy, set HTTP_PROXY and HTTPS_PROXY"
	}
	return e
}

func statusHint(code int, host string) string {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("give a token with --secret id=HTTP_AUTH_TOKEN_%s,env=TOKEN", host)
	case http.StatusNotFound, http.StatusGone:
		return "check the path; what must not be seen without a token is often not found either"
	case http.StatusProxyAuthRequired:
		return "the proxy that HTTP_PROXY or HTTPS_PROXY names wants a user and a password"
	}
	return ""
}
