package lower

import (
	"errors"
	"fmt"
	"net/url"
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// applyAdd copies from the main context and, unless told otherwise, unpacks
// what is an archive there. Sources that lie elsewhere are fetched.
func (s *stage) applyAdd(c *instructions.AddCommand) (err error) {
	expanded := *c
	t := transfer{paths: &expanded.SourcesAndDest, chown: &expanded.Chown, chmod: &expanded.Chmod,
		exclude: &expanded.ExcludePatterns, link: c.Link}
	if err := s.expandTransfer(t); err != nil {
		return err
	}
	if expanded.Checksum, err = s.expand(c.Checksum); err != nil {
		return err
	}
	if err := checkChecksum(&expanded); err != nil {
		return err
	}
	t.remote = func(src string) (*remote, error) { return s.remote(&expanded, src) }
	for _, path := range expanded.SourcePaths {
		if parser.Remote(path) == "" {
			s.lintIgnored("Add", path)
		}
	}
	unpack := c.Unpack == nil || *c.Unpack
	return s.transfer("ADD", t, s.mainContext(), unpack)
}

func checkChecksum(c *instructions.AddCommand) error {
	switch {
	case c.Checksum == "":
	case len(c.SourcePaths) != 1:
		return errors.New("checksum can't be specified for multiple sources")
	case parser.Remote(c.SourcePaths[0]) == "":
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	return nil
}

// A remote is a source of ADD that lies elsewhere.
type remote struct {
	vertex *llb.Vertex
	path   string // what is copied of it
	unpack bool
}

// remote returns what lies elsewhere under the name src, or nil for a path.
func (s *stage) remote(c *instructions.AddCommand, src string) (*remote, error) {
	switch parser.Remote(src) {
	case "git ref":
		op, err := addGit(c, src)
		if err != nil {
			return nil, err
		}
		return &remote{vertex: llb.New(op, nil, s.loads(op.Name())), path: "/"}, nil
	case "URL":
		op := &llb.HTTP{URL: src, Filename: urlFile(src)}
		if c.Checksum != "" {
			var err error
			if op.Checksum, err = digest.Parse(c.Checksum); err != nil {
				return nil, fmt.Errorf("--checksum: %w", err)
			}
		}
		return &remote{vertex: llb.New(op, nil, s.loads(op.Name())), path: "/" + op.Filename, unpack: c.Unpack != nil && *c.Unpack}, nil
	}
	return nil, nil
}

func (s *stage) loads(name string) llb.Meta {
	return llb.Meta{Label: "[internal] load " + name, Pos: s.position(s.current.Location())}
}

// urlFile returns the name of the file that a URL gives.
func urlFile(src string) string {
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" && base != ".." {
			return base
		}
	}
	return "__unnamed__"
}

// addGit reads a git reference together with the flags that say the same.
func addGit(c *instructions.AddCommand, src string) (*llb.Git, error) {
	ref, _, err := dfgitutil.ParseGitRef(src)
	if err != nil {
		return nil, err
	}
	if c.KeepGitDir != nil {
		if ref.KeepGitDir != nil && *ref.KeepGitDir != *c.KeepGitDir {
			return nil, errors.New("inconsistent keep-git-dir configuration")
		}
		ref.KeepGitDir = c.KeepGitDir
	}
	if c.Checksum != "" {
		if ref.Checksum != "" && ref.Checksum != c.Checksum {
			return nil, fmt.Errorf("checksum mismatch %q != %q", c.Checksum, ref.Checksum)
		}
		ref.Checksum = c.Checksum
	}
	return Git(ref), nil
}

// Git returns the source that a git reference names.
func Git(ref *dfgitutil.GitRef) *llb.Git {
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	return &llb.Git{
		Remote: ref.Remote, Ref: ref.Ref, Subdir: ref.SubDir, Checksum: ref.Checksum, KeepGitDir: is(ref.KeepGitDir, false),
		SkipSubmodules: !is(ref.Submodules, true), FetchByCommit: ref.FetchByCommit, CheckoutTime: ref.MTime == "checkout",
	}
}
