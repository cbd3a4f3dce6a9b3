// Package reference reads the names of images as docker, podman and BuildKit do: "app" is "docker.io/library/app". It follows
// the grammar of github.com/distribution/reference, which its tests compare it with. That package compiles a dozen regular
// expressions before main, an eighth of the time of a build that has nothing to do: see docs/performance.md.
package reference

import (
	"errors"
	"fmt"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
)

const (
	defaultDomain = "docker.io"
	legacyDomain  = "index.docker.io"
	official      = "library/"
	maxPath       = 255
	maxTag        = 128
)

var errFormat = errors.New("invalid reference format")

// A Reference is the name of an image, with all that may be left out in writing but the tag.
type Reference struct {
	Domain string        // a host, and a port if it has one
	Path   string        // of the repository in its registry
	Tag    string        // "" where there is none
	Digest digest.Digest // of a manifest; zero where there is none
}

// Parse reads a name as people write it. Its errors are those that docker and BuildKit print.
func Parse(s string) (Reference, error) {
	if len(s) == 64 && all(s, isHex) {
		return Reference{}, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	domain, rest := splitDomain(s)
	if path, _, _ := strings.Cut(rest, ":"); strings.ToLower(path) != path {
		return Reference{}, fmt.Errorf("%w: repository name (%s) must be lowercase", errFormat, path)
	}
	name, sum, pinned := strings.Cut(rest, "@")
	path, tag, tagged := strings.Cut(name, ":")
	switch {
	case !isDomain(domain), !isPath(path), tagged && !isTag(tag):
		return Reference{}, errFormat
	case len(path) > maxPath:
		return Reference{}, fmt.Errorf("repository name must not be more than %d characters", maxPath)
	}
	r := Reference{Domain: domain, Path: path, Tag: tag}
	var err error
	if pinned {
		r.Digest, err = parseDigest(sum)
	}
	return r, err
}

// splitDomain tells the host from the rest: the first of several elements, when it cannot be one of a path.
func splitDomain(s string) (domain, rest string) {
	domain, rest, ok := strings.Cut(s, "/")
	switch {
	case ok && domain == legacyDomain:
		domain = defaultDomain
	case !ok, domain != "localhost" && !strings.ContainsAny(domain, ".:") && strings.ToLower(domain) == domain:
		domain, rest = defaultDomain, s
	}
	if domain == defaultDomain && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

// parseDigest reads what is behind @.
func parseDigest(s string) (digest.Digest, error) {
	algorithm, sum, ok := strings.Cut(s, ":")
	if !ok || !isAlgorithm(algorithm) || len(sum) < 32 || !all(sum, func(c byte) bool { return isHex(c) || c >= 'A' && c <= 'F' }) {
		return digest.Digest{}, errFormat
	}
	return digest.Parse(s)
}

// Name returns the repository, without tag and digest.
func (r Reference) Name() string { return r.Domain + "/" + r.Path }

// String returns the whole name.
func (r Reference) String() string { return r.Name() + r.suffix() }

func (r Reference) suffix() (s string) {
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// Familiar returns the name as people write it: without what Parse adds.
func (r Reference) Familiar() string {
	if r.Domain != defaultDomain {
		return r.String()
	}
	path := r.Path
	if short, ok := strings.CutPrefix(path, official); ok && !strings.Contains(short, "/") {
		path = short
	}
	return path + r.suffix()
}

// Familiar is Reference.Familiar of a name; of what is none, it is the name itself.
func Familiar(name string) string {
	r, err := Parse(name)
	if err != nil {
		return name
	}
	return r.Familiar()
}

// Tagged returns r with the tag latest if it has neither a tag nor a digest.
func (r Reference) Tagged() Reference {
	if r.Tag == "" && r.Digest.IsZero() {
		r.Tag = "latest"
	}
	return r
}
