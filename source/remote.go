package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A Remote pins and fetches what lies elsewhere: files at URLs, and commits of git repositories. What was fetched is a
// layer of the store. It is safe for concurrent use.
type Remote struct {
	// Secrets returns the value of a secret, and whether there is one of that ID.
	Secrets func(id string) ([]byte, bool, error)
	// Agent makes a socket of the SSH agent in a folder, until end. It is nil when there is none for the build.
	Agent func(dir string) (socket string, end func(), err error)
	// Progress, when not nil, is called while something is downloaded; total is -1 when the server does not say it.
	Progress func(name string, done, total int64)

	disk   *cache.Store
	layers *snapshot.Store
	client *http.Client
	agent  string // the User-Agent
	build  string // names this build; what another process of it has pinned is taken as it is

	mu   sync.Mutex
	pins map[digest.Digest]*pin
}

// NewRemote returns a Remote for one build, which all its processes know by the name build.
func NewRemote(disk *cache.Store, layers *snapshot.Store, version, build string) *Remote {
	agent := "build/" + version
	return &Remote{disk: disk, layers: layers, client: newURLClient(agent), agent: agent, build: build, pins: map[digest.Digest]*pin{}}
}

// A RemoteError says why something that lies elsewhere could not be had, and what to do. Its text holds no credentials.
type RemoteError struct {
	Name string // where it lies
	Err  error
	Hint string // "" when there is nothing to say
}

func (e *RemoteError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *RemoteError) Unwrap() error { return e.Err }

// A place is one thing that lies elsewhere.
type place interface {
	// pin finds out what is there now and returns what names it.
	pin(ctx context.Context) (digest.Digest, error)
	// fetch returns the chain that holds what pin has named.
	fetch(ctx context.Context) (digest.Digest, error)
}

// A pin is a place with what was found there, once per build.
type pin struct {
	place
	mu   sync.Mutex // held while asking
	done bool
	name digest.Digest
}

// Pin implements executor.Remote.
func (r *Remote) Pin(ctx context.Context, op llb.Op) (digest.Digest, error) {
	p, err := r.pinned(ctx, op)
	if err != nil {
		return digest.Digest{}, err
	}
	return p.name, nil
}

// Fetch implements executor.Remote.
func (r *Remote) Fetch(ctx context.Context, op llb.Op) (digest.Digest, error) {
	p, err := r.pinned(ctx, op)
	if err != nil {
		return digest.Digest{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetch(ctx)
}

func (r *Remote) pinned(ctx context.Context, op llb.Op) (*pin, error) {
	id := llb.OpDigest(op)
	r.mu.Lock()
	p := r.pins[id]
	if p == nil {
		p = &pin{}
		switch op := op.(type) {
		case *llb.HTTP:
			p.place = &urlPlace{Remote: r, op: op}
		case *llb.Git:
			p.place = &gitPlace{Remote: r, op: op}
		default:
			panic(fmt.Sprintf("source: operation %T does not lie elsewhere", op))
		}
		r.pins[id] = p
	}
	r.mu.Unlock()

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return p, nil
	}
	var err error
	if p.name, err = p.pin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	p.done = true
	return p, nil
}

// secret returns the value of the first of these secrets that there is.
func (r *Remote) secret(ids ...string) (id, value string, err error) {
	if r.Secrets == nil {
		return "", "", nil
	}
	for _, id := range ids {
		b, ok, err := r.Secrets(id)
		if err != nil {
			return "", "", fmt.Errorf("secret %s: %w", id, err)
		}
		if !ok {
			continue
		}
		if value = strings.TrimRight(string(b), "\r\n"); strings.ContainsAny(value, "\r\n\x00") {
			return "", "", fmt.Errorf("secret %s: more than one line", id)
		}
		return id, value, nil
	}
	return "", "", nil
}

// remoteRecord names the record of a place.
func remoteRecord(kind string, names ...string) string {
	h := digest.NewHasher("remote." + kind + "/v1")
	for _, n := range names {
		h.String("name", n)
	}
	id := h.Sum().Hex()
	return filepath.Join("remote", id[:2], id[2:])
}

// readRecord reads a record into v. One that is missing or damaged leaves v as it is.
func (r *Remote) readRecord(name string, v any) {
	if b, err := r.disk.ReadFile(name); err == nil {
		_ = json.Unmarshal(b, v)
	}
}

func (r *Remote) writeRecord(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.disk.WriteFile(name, append(b, '\n'))
}
