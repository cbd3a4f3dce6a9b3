package source

import (
	"context"
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

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// A Client talks to image registries and reads OCI layouts. Credentials are those of docker: $DOCKER_CONFIG/config.json
// with its helpers. Registries on this machine are spoken to without encryption. It is safe for concurrent use.
type Client struct {
	// Progress, when not nil, is called while a layer is downloaded. It must be set before the first call.
	Progress func(b snapshot.Blob, done int64)

	userAgent string
	transport http.RoundTripper

	mu    sync.Mutex
	repos map[string]*repository
}

// NewClient returns a Client that calls itself "build/<version>".
func NewClient(version string) *Client {
	return &Client{userAgent: "build/" + version, transport: newTransport(), repos: map[string]*repository{}}
}

// A repository is an origin: the images of one name in a registry.
type repository struct {
	name string // normalised, like "docker.io/library/debian"
	repo name.Repository

	mu     sync.Mutex // held while connecting, so that one token serves all
	client *http.Client
}

// repository returns the repository of that name, with its authentication done.
func (c *Client) repository(ctx context.Context, repoName string) (*repository, error) {
	repo, err := name.NewRepository(repoName)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	r := c.repos[repoName]
	if r == nil {
		r = &repository{name: repoName, repo: repo}
		c.repos[repoName] = r
	}
	c.mu.Unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r, nil
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", repo.RegistryStr(), err)
	}
	t, err := transport.NewWithContext(ctx, repo.Registry, auth, withRetries(c.transport, c.userAgent), []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{Transport: t, CheckRedirect: checkRedirect}
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

func (r *repository) get(ctx context.Context, kind, id string, accept []string) (*http.Response, error) {
	u := url.URL{Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(), Path: "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + id}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ","))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// explain turns what went wrong with ref into an ImageError. Errors that say it all, or are not about
// the registry, stay as they are.
func (c *Client) explain(ref string, err error) error {
	var done *ImageError
	if err == nil || errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	out := &ImageError{Ref: ref, Err: err}
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
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.Domain(named)
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
