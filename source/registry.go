package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/snapshot"
)

// A Client talks to image registries and reads OCI layouts. Credentials are those of docker: $DOCKER_CONFIG/config.json
// with its helpers. It is safe for concurrent use.
type Client struct {
	// Progress, when not nil, is called while a layer is downloaded. It must be set before the first call.
	Progress func(b snapshot.Blob, done int64)
	// Hosts say how registries are reached; nil says nothing special. They must be set before the first call.
	Hosts *Hosts

	userAgent string

	mu      sync.Mutex
	repos   map[string]*repository
	servers map[string]*server // by endpoint
}

// NewClient returns a Client that calls itself "build/<version>".
func NewClient(version string) *Client {
	return &Client{userAgent: "build/" + version, repos: map[string]*repository{}, servers: map[string]*server{}}
}

// A repository is an origin: the images of one name in a registry, at all endpoints that have them.
type repository struct {
	name  string // normalised, like "docker.io/library/debian"
	doors []*door
}

// repository returns the repository of that name. Nobody is asked yet.
func (c *Client) repository(repoName string) (*repository, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.repos[repoName]; r != nil {
		return r, nil
	}
	host, path, _ := strings.Cut(repoName, "/")
	endpoints, err := c.Hosts.endpoints(host)
	if err != nil {
		return nil, err
	}
	r := &repository{name: repoName}
	for _, e := range endpoints {
		d, err := c.door(e, path)
		if err != nil {
			return nil, err
		}
		r.doors = append(r.doors, d)
	}
	c.repos[repoName] = r
	return r, nil
}

func (r *repository) String() string { return r.name }

// acceptedManifests are the media types that a registry may answer with. Schema 1 is among them so that
// an old registry names it, and we can say so.
var acceptedManifests = []string{
	string(types.OCIManifestSchema1), string(types.OCIImageIndex),
	string(types.DockerManifestSchema2), string(types.DockerManifestList),
	string(types.DockerManifestSchema1Signed), string(types.DockerManifestSchema1),
}

func (r *repository) manifest(ctx context.Context, id string) (manifest, error) {
	resp, err := r.get(ctx, "manifests", id, acceptedManifests)
	if err != nil {
		return manifest{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return manifest{}, fmt.Errorf("manifest: cut after %d bytes: %w", len(b), err)
	}
	if len(b) > maxManifest {
		return manifest{}, fmt.Errorf("manifest of more than %d bytes", maxManifest)
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return manifest{b, strings.TrimSpace(mediaType)}, nil
}

func (r *repository) blob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	resp, err := r.get(ctx, "blobs", d.String(), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// get asks the endpoints one after another. What the last one says, mostly the registry itself, is the error.
func (r *repository) get(ctx context.Context, kind, id string, accept []string) (*http.Response, error) {
	err := fmt.Errorf("no server is configured to be asked for %s", kind)
	_, notDigest := digest.Parse(id)
	for _, d := range r.doors {
		if !d.pull || notDigest != nil && !d.resolve {
			continue
		}
		var resp *http.Response
		if resp, err = d.get(ctx, kind, id, accept); err == nil || ctx.Err() != nil {
			return resp, err
		}
	}
	return nil, err
}

// explain turns what went wrong with ref into an ImageError. Errors that say it all, or are not about
// the registry, stay as they are.
func (c *Client) explain(ref string, err error) error {
	var done *ImageError
	if err == nil || errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	out := &ImageError{Ref: ref, Err: err}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		out.Err = fmt.Errorf("the certificate of the registry is not trusted: %w", cert.Err)
		out.Hint = fmt.Sprintf("put the certificate of its authority into ~/.config/docker/certs.d/%s/ca.crt", registryOf(ref))
		return out
	}
	var status *transport.Error
	if errors.As(err, &status) {
		out.answer(status)
		return out
	}
	var dial *net.OpError
	var dns *net.DNSError
	var fetch *url.Error
	switch {
	case errors.Is(err, ErrPlatform):
		out.Hint = "name one that is there with --platform"
	case errors.As(err, &dns):
		out.Err, out.Hint = dns, "check the name of the registry, and the network"
	case errors.As(err, &dial):
		out.Err = dial
		if errors.Is(err, syscall.ECONNREFUSED) {
			out.Hint = "nothing listens there: check the host and the port, and whether the registry runs"
		}
	case isCut(err): // of the two errors of a registry that was asked with and without encryption, the one that tells more
		out.Err, out.Hint = errCut, "try again; if it stays so, look at the log of the registry, or of the proxy before it"
	case errors.Is(err, errNoTLS), errors.Is(err, http.ErrSchemeMismatch):
		out.Hint = "if the network is to be trusted, say http = true for that host in registries.toml"
	case errors.As(err, &fetch):
		out.Err = fmt.Errorf("%s: %w", fetch.URL, fetch.Err)
	}
	return out
}

// answer explains an answer of a registry that is not the one that was hoped for.
func (e *ImageError) answer(status *transport.Error) {
	code := fmt.Sprintf("%d %s", status.StatusCode, http.StatusText(status.StatusCode))
	switch status.StatusCode {
	case http.StatusNotFound:
		e.Err, e.Hint = ErrNotFound, "check the name and the tag"
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Err = fmt.Errorf("%w (%s): the repository does not exist, or needs a login", ErrUnauthorized, code)
		e.Hint = fmt.Sprintf("log in with: docker login %s (credentials are read from %s)", registryOf(e.Ref), configFile())
	case http.StatusTooManyRequests:
		e.Err = fmt.Errorf("the registry limits requests (%s)", code)
		e.Hint = "wait, or log in with: docker login " + registryOf(e.Ref)
	default:
		e.Err = fmt.Errorf("the registry answers %s: %w", code, status)
	}
}

func registryOf(ref string) string {
	named, err := reference.Parse(ref)
	if err != nil {
		return ref
	}
	return named.Domain
}

// configFile returns where docker keeps credentials, for messages.
func configFile() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}
