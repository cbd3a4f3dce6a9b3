package llb

import (
	"net/url"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
)

// HTTP is a source: what a URL gives, as the only file of a root. In LLB it is "https://..." or "http://...".
// The URL says where, not what: what is there when the build runs is found out by the executor.
type HTTP struct {
	URL string
	// Filename is the name of the file; its mode is 0600, its time that of the server's Last-Modified.
	Filename string
	// Checksum, when not zero, is the digest that the bytes must have.
	Checksum digest.Digest
}

func (*HTTP) domain() string { return "source.http/v1" }
func (*HTTP) arity() int     { return 0 }
func (o *HTTP) hash(h *digest.Hasher) {
	h.String("url", o.URL)
	h.String("filename", o.Filename)
	h.Digest("checksum", o.Checksum)
}

// Git is a source: the files of a commit. In LLB it is "git://...". The commit that Ref leads to
// is found out by the executor.
type Git struct {
	Remote string // URL of the repository, without ref and options
	Ref    string // branch, tag or commit; "" is the default branch
	Subdir string // the folder that is the root; "" is that of the repository
	// Checksum, when not "", is the beginning of the commit's hash, which must match.
	Checksum string
	// KeepGitDir leaves .git in the root. It has no effect with a Subdir.
	KeepGitDir bool
	// SkipSubmodules leaves the folders of submodules empty.
	SkipSubmodules bool
	// FetchByCommit fetches Checksum, a whole hash, without asking what Ref means there.
	FetchByCommit bool
	// CheckoutTime gives files the time they were fetched, not that of the commit.
	CheckoutTime bool
}

func (*Git) domain() string { return "source.git/v1" }
func (*Git) arity() int     { return 0 }
func (o *Git) hash(h *digest.Hasher) {
	h.String("remote", o.Remote)
	h.String("ref", o.Ref)
	h.String("subdir", o.Subdir)
	h.String("checksum", o.Checksum)
	h.Bool("keep .git", o.KeepGitDir)
	h.Bool("skip submodules", o.SkipSubmodules)
	h.Bool("fetch by commit", o.FetchByCommit)
	h.Bool("checkout time", o.CheckoutTime)
}

// Remote reports whether v is a source that lies elsewhere: an *HTTP or a *Git. What other sources hold is
// known when the graph is made; what these hold, and so their key, is only known when it is asked for.
func (v *Vertex) Remote() bool {
	switch v.op.(type) {
	case *HTTP, *Git:
		return true
	}
	return false
}

// Name returns the URL as it may be shown.
func (o *HTTP) Name() string { return redacted(o.URL) }

// Name returns the repository as it may be shown.
func (o *Git) Name() string { return redacted(o.Remote) }

// redacted returns an address without a password and without the query, where signatures and tokens are. The user
// is part of the address with ssh only.
func redacted(address string) string {
	address, _, _ = strings.Cut(address, "#")
	address, _, _ = strings.Cut(address, "?")
	u, err := url.Parse(address)
	if err != nil {
		return withoutUser(address)
	}
	if u.Host == "" && u.User == nil {
		return address
	}
	if u.Scheme == "ssh" && u.User != nil {
		u.User = url.User(u.User.Username())
	} else {
		u.User = nil
	}
	return u.String()
}

// withoutUser is redacted for what is no URL and yet looks like one.
func withoutUser(address string) string {
	scheme, rest, isURL := strings.Cut(address, "://")
	if at := strings.LastIndexByte(rest, '@'); isURL && at >= 0 {
		return scheme + "://" + rest[at+1:]
	}
	return address
}
