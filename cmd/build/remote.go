package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/llb/lower"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// contextFile is what a context is called that is one file.
const contextFile = "context"

// maxDockerfile is how large a Dockerfile may be that comes from elsewhere.
const maxDockerfile = 16 << 20

// buildVariable names this build to the process inside a user namespace, which takes for granted what was pinned
// outside of it.
const buildVariable = "_BUILD_ID"

func buildID() string {
	id := os.Getenv(buildVariable)
	if id == "" {
		id = rand.Text()
		os.Setenv(buildVariable, id)
	}
	return id
}

// A gitSource is a git reference of the command line.
type gitSource struct {
	op  *llb.Git
	err error // what is wrong with it
}

// gitContext reads a context that is a git repository, and returns nil when it is none. A repository in files of this
// host can be named by the command line only: no Dockerfile may look around here.
func gitContext(text string) *gitSource {
	address := text
	rest, isFile := strings.CutPrefix(text, "file:///")
	if isFile {
		address = "git://localhost/" + rest
	}
	ref, is, err := dfgitutil.ParseGitRef(address)
	if err != nil {
		if !is {
			return nil
		}
		return &gitSource{err: err}
	}
	op := lower.Git(ref)
	switch {
	case strings.HasPrefix(op.Remote, "-"):
		// git and ssh would read an option in it.
		return &gitSource{err: fmt.Errorf("git address %q begins with a dash", op.Remote)}
	case strings.ContainsFunc(op.Remote, unicode.IsControl):
		return &gitSource{err: fmt.Errorf("git address %q holds a control character", op.Remote)}
	case isFile:
		op.Remote = "file://" + strings.TrimPrefix(op.Remote, "git://localhost")
	case ref.IndistinguishableFromLocal:
		op.Remote = "https://" + op.Remote
	}
	return &gitSource{op: op}
}

// loadContext finds the Dockerfile and the context, when they are not both on this host.
func (a *app) loadContext(ctx context.Context, p *plan) error {
	switch p.kind {
	case contextStdin:
		if err := a.loadStdin(ctx, p); err != nil || p.file != nil {
			return err
		}
	case contextGit:
		if err := a.planGit(p); err != nil {
			return err
		}
	case contextURL:
		if err := a.loadURL(ctx, p); err != nil || p.file != nil {
			return err
		}
	}
	switch file := p.buildOptions.file; {
	case p.file != nil:
		return nil
	case file == "-":
		return a.parseStdin(ctx, p)
	case strings.HasPrefix(file, "http://"), strings.HasPrefix(file, "https://"):
		return a.loadDockerfile(ctx, p, file)
	}
	return a.findDockerfile(ctx, p)
}

// planGit makes the context a commit.
func (a *app) planGit(p *plan) error {
	git := gitContext(p.context)
	if git.err != nil {
		return usagef("", "context: %w", git.err)
	}
	if keep, err := strconv.ParseBool(p.args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil && keep {
		git.op.KeepGitDir = true
	}
	if u, err := url.Parse(git.op.Remote); (err != nil || u.Scheme == "ssh") && p.agents["default"] == nil && os.Getenv("SSH_AUTH_SOCK") != "" {
		// Whoever names such a context means to be let in.
		agent, err := source.ParseAgent("default")
		if err != nil {
			return usagef("name another agent with --ssh default=SOCKET", "SSH_AUTH_SOCK: %w", fileError(err))
		}
		p.agents["default"] = agent.Serve
		a.useSecrets(p)
	}
	p.main = llb.New(git.op, nil, llb.Meta{Label: "[internal] load git source " + git.op.Name()})
	return nil
}

// loadURL downloads the context: an archive, or a Dockerfile that is all there is.
func (a *app) loadURL(ctx context.Context, p *plan) error {
	op := &llb.HTTP{URL: p.context, Filename: contextFile}
	p.main = llb.New(op, nil, llb.Meta{Label: "[internal] load remote build context"})
	var archive bool
	err := a.view(ctx, p, p.main, func(v *snapshot.View) error {
		e, _, err := v.Lstat(contextFile)
		if err != nil {
			return err
		}
		r, err := v.Open(e)
		if err != nil {
			return err
		}
		defer r.Close()
		archive = executor.IsArchive(r)
		return nil
	})
	if err != nil {
		return err
	}
	if archive {
		p.main = unpacked(p.main)
	} else if p.buildOptions.file == "" {
		return a.readFrom(ctx, p, p.main, contextFile, "Dockerfile")
	}
	return nil
}

// unpacked returns the files of the archive that is all of v.
func unpacked(v *llb.Vertex) *llb.Vertex {
	unpack := &llb.Copy{From: 1, Sources: []llb.Source{{Path: "/" + contextFile}}, Dest: "/", Unpack: true}
	return llb.New(&llb.File{Actions: []llb.Action{unpack}}, []*llb.Vertex{llb.New(&llb.Image{}, nil, llb.Meta{Label: "FROM scratch"}), v},
		llb.Meta{Label: "[internal] unpack build context"})
}

// loadDockerfile downloads the Dockerfile.
func (a *app) loadDockerfile(ctx context.Context, p *plan, address string) error {
	op := &llb.HTTP{URL: address, Filename: "Dockerfile"}
	v := llb.New(op, nil, llb.Meta{Label: "[internal] load build definition from " + op.Name()})
	return a.readFrom(ctx, p, v, op.Filename, op.Filename)
}

// findDockerfile reads the Dockerfile that is in the context.
func (a *app) findDockerfile(ctx context.Context, p *plan) error {
	name := p.buildOptions.file
	if name != "" {
		return a.readFrom(ctx, p, p.main, name, path.Base(name))
	}
	err := a.readFrom(ctx, p, p.main, "Dockerfile", "Dockerfile")
	if errors.Is(err, fs.ErrNotExist) {
		if lower := a.readFrom(ctx, p, p.main, "dockerfile", "dockerfile"); !errors.Is(lower, fs.ErrNotExist) {
			return lower
		}
	}
	return err
}

// readFrom reads the Dockerfile at a path of v.
func (a *app) readFrom(ctx context.Context, p *plan, v *llb.Vertex, at, name string) error {
	var data []byte
	err := a.view(ctx, p, v, func(view *snapshot.View) error {
		b, ok, err := snapshot.ReadFile(view, at, maxDockerfile)
		if err == nil && !ok {
			err = &fs.PathError{Op: "open", Path: at, Err: fs.ErrNotExist}
		}
		if err != nil {
			return usagef("name it with -f, as a path in the context", "failed to read dockerfile: %w", err)
		}
		data = b
		return nil
	})
	if err != nil {
		return err
	}
	return a.parse(p, name, data)
}

// view solves v and shows its files to f.
func (a *app) view(ctx context.Context, p *plan, v *llb.Vertex, f func(*snapshot.View) error) error {
	err := a.retryDamaged(func() error {
		chain, err := a.solver(p).Solve(ctx, v)
		if err != nil {
			return err
		}
		view, err := a.layers.View(ctx, chain)
		if err != nil {
			return err
		}
		return f(view)
	})
	var far *source.RemoteError // names what the step would
	if errors.As(err, &far) {
		return far
	}
	return err
}

// downloads shows what is downloaded.
func downloads(d *progress.Display) func(name string, done, total int64) {
	var mu sync.Mutex
	steps := map[digest.Digest]*progress.Step{}
	return func(name string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		id := digest.Of([]byte(name))
		s := steps[id]
		if s == nil {
			s = d.Step("downloading " + name)
			steps[id] = s
		}
		s.Status("downloading", done, max(total, 0))
		if done == total {
			s.Done(nil)
			delete(steps, id)
		}
	}
}
