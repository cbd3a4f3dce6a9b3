package main

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/source"
)

// stdinVariable names the folder with what came on standard input to the process inside a user namespace, which
// cannot read it a second time.
const stdinVariable = "_BUILD_STDIN"

// readStdin keeps standard input as a file, the only one in the folder it returns.
func (a *app) readStdin(ctx context.Context, p *plan) (dir string, err error) {
	if dir = os.Getenv(stdinVariable); dir != "" {
		return dir, nil
	}
	if p.stdin, err = a.disk.NewTempDir(); err != nil {
		return "", err
	}
	dir = p.stdin.Join("stdin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(dir+"/"+contextFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	copied := make(chan error, 1) // a read of a terminal does not end with the build: the process does
	go func() {
		_, err := io.Copy(f, a.in)
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	os.Setenv(stdinVariable, dir)
	return dir, err
}

// closeContext removes what was kept of standard input.
func (a *app) closeContext(p *plan) {
	if p.stdin != nil {
		_ = p.stdin.Remove()
	}
}

// openStdin opens the file that holds what standard input gave.
func (a *app) openStdin(ctx context.Context, p *plan) (*os.File, error) {
	dir, err := a.readStdin(ctx, p)
	if err != nil {
		return nil, err
	}
	return os.Open(dir + "/" + contextFile)
}

// loadStdin makes a context of standard input: an archive, or a Dockerfile that is all there is.
func (a *app) loadStdin(ctx context.Context, p *plan) error {
	f, err := a.openStdin(ctx, p)
	if err != nil {
		return err
	}
	defer f.Close()
	if executor.IsArchive(f) {
		const name = "stdin"
		if a.executor.Locals[name], err = source.NewLocal(filepath.Dir(f.Name()), nil, nil); err != nil {
			return err
		}
		p.main = unpacked(llb.New(&llb.Local{Name: name}, nil, llb.Meta{Label: "[internal] load build context from standard input"}))
		return nil
	}
	if p.buildOptions.file != "" {
		return usagef("leave out -f, or give a folder as the context", "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	p.main = llb.New(&llb.Image{}, nil, llb.Meta{Label: "[internal] no build context"})
	return a.parseStdin(ctx, p)
}

// parseStdin reads the Dockerfile from standard input.
func (a *app) parseStdin(ctx context.Context, p *plan) error {
	f, err := a.openStdin(ctx, p)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = usagef("", "Dockerfile on standard input: more than %d bytes", maxDockerfile)
	}
	if err != nil {
		return err
	}
	return a.parse(p, "Dockerfile", data)
}
