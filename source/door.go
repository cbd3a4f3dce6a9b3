package source

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A server is an endpoint with its connections, which all repositories share.
type server struct {
	endpoint
	transport http.RoundTripper
}

// A door is a way into a repository: the part of a server that is called by its name.
type door struct {
	*server
	repo      name.Repository
	userAgent string

	mu     sync.Mutex // held while connecting, so that one token serves all
	client *http.Client
	err    error // of a mirror, which is not asked again
}

// door returns the door to the repository at path. The caller holds c.mu.
func (c *Client) door(e endpoint, path string) (*door, error) {
	s, err := c.server(e)
	if err != nil {
		return nil, err
	}
	repo, err := e.repository(path)
	return &door{server: s, repo: repo, userAgent: c.userAgent}, err
}

// server returns the connections to an endpoint. The caller holds c.mu.
func (c *Client) server(e endpoint) (*server, error) {
	key := fmt.Sprint(e)
	if s := c.servers[key]; s != nil {
		return s, nil
	}
	t, err := newTransport(e)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", e.host, err)
	}
	s := &server{e, t}
	c.servers[key] = s
	return s, nil
}

// repository returns what the repository at a path is called on the server.
func (e endpoint) repository(repo string) (name.Repository, error) {
	var options []name.Option
	if e.plain {
		options = append(options, name.Insecure)
	}
	return name.NewRepository(path.Join(e.host, e.prefix, repo), options...)
}

// connect asks the server how it wants to be talked to, once.
func (d *door) connect(ctx context.Context) (*http.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil || d.err != nil {
		return d.client, d.err
	}
	client, err := d.authenticate(ctx)
	if err != nil && d.of != "" && ctx.Err() == nil {
		d.err = err
	}
	d.client = client
	return client, err
}

func (d *door) authenticate(ctx context.Context) (*http.Client, error) {
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, d.repo)
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", d.repo.RegistryStr(), err)
	}
	t, err := transport.NewWithContext(ctx, d.repo.Registry, auth, withRetries(d.transport, d.userAgent), []string{d.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: t, CheckRedirect: checkRedirect}, nil
}

func (d *door) get(ctx context.Context, kind, id string, accept []string) (*http.Response, error) {
	client, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: d.repo.Scheme(), Host: d.repo.RegistryStr(), Path: "/v2/" + d.repo.RepositoryStr() + "/" + kind + "/" + id}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ","))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// pusher returns the door that takes what is pushed to the repository of that name.
func (c *Client) pusher(repoName string, insecure bool) (*door, error) {
	host, path, _ := strings.Cut(repoName, "/")
	endpoints, err := c.Hosts.endpoints(host)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range endpoints {
		if !e.push {
			continue
		}
		if insecure {
			e.plain, e.skipVerify = true, true
		}
		return c.door(e, path)
	}
	return nil, fmt.Errorf("no server of %s is configured to take images", cmp.Or(host, repoName))
}
