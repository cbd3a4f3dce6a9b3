package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/llb"
)

func TestGitContext(t *testing.T) {
	for text, want := range map[string]*llb.Git{
		"https://h/r.git":                      {Remote: "https://h/r.git"},
		"https://h/r.git#main:a/b":             {Remote: "https://h/r.git", Ref: "main", Subdir: "a/b"},
		"https://h/r.git#:../..":               {Remote: "https://h/r.git"},
		"https://h/r.git?tag=v1&subdir=d":      {Remote: "https://h/r.git", Ref: "refs/tags/v1", Subdir: "d"},
		"http://u:p@h:1/r.git?branch=b":        {Remote: "http://u:p@h:1/r.git", Ref: "refs/heads/b"},
		"https://h/r.git?ref=x&checksum=ab":    {Remote: "https://h/r.git", Ref: "x", Checksum: "ab"},
		"https://h/r.git?submodules=false":     {Remote: "https://h/r.git", SkipSubmodules: true},
		"https://h/r.git?keep-git-dir":         {Remote: "https://h/r.git", KeepGitDir: true},
		"https://h/r.git?mtime=checkout":       {Remote: "https://h/r.git", CheckoutTime: true},
		"https://h/r.git?mtime=commit":         {Remote: "https://h/r.git"},
		"https://h/r?ref=x":                    nil,
		"git@h:me/r":                           {Remote: "git@h:me/r"},
		"git@h:me/r.git#v1":                    {Remote: "git@h:me/r.git", Ref: "v1"},
		"ssh://git@h:22/r":                     {Remote: "ssh://git@h:22/r"},
		"git://h/r#x":                          {Remote: "git://h/r", Ref: "x"},
		"github.com/me/r":                      {Remote: "https://github.com/me/r"},
		"github.com/me/r#main:d":               {Remote: "https://github.com/me/r", Ref: "main", Subdir: "d"},
		"file:///srv/r#main":                   {Remote: "file:///srv/r", Ref: "main"},
		"file:///srv/a%20b?subdir=d":           {Remote: "file:///srv/a%20b", Subdir: "d"},
		"ext::sh -c x":                         nil,
		"./r.git":                              nil,
		"file://host/r":                        nil,
		"/srv/r.git":                           nil,
		"ftp://h/r.git":                        nil,
		"https://h/r.git?ref=a&ref=b":          {},
		"https://h/r.git?nosuch=1":             {},
		"https://h/r.git?tag=a&branch=b":       {},
		"https://h/r.git?keep-git-dir=perhaps": {},
		"https://h/r.git?ref=b#a":              {},
	} {
		got := gitContext(text)
		switch {
		case want == nil && got != nil:
			t.Errorf("%s: it is a repository", text)
		case want == nil:
		case got == nil:
			t.Errorf("%s: it is no repository", text)
		case want.Remote == "" && got.err == nil:
			t.Errorf("%s: no error", text)
		case want.Remote != "" && (got.err != nil || *got.op != *want):
			t.Errorf("%s: %+v %v", text, got.op, got.err)
		}
	}
}

// Whatever is written, nobody is shown a password, and nothing but a file:// address names files of this host.
func FuzzGitContext(f *testing.F) {
	for _, text := range []string{
		"https://u:p@h/r.git#ref:sub", "git@h:r?ref=x#y:z", "ssh://-oProxyCommand=x/r", "file:///r?subdir=..", "github.com/a/b#:/x", "ext::sh -c x",
		"https://h/r.git?tag=v&checksum=00&keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=1", "file://host/-x", "git://[::1]:1/r",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := gitContext(text)
		if got == nil || got.err != nil {
			return
		}
		op := got.op
		if strings.HasPrefix(op.Remote, "-") || strings.ContainsAny(op.Remote, "\n\x00") {
			t.Errorf("%q gives the address %q", text, op.Remote)
		}
		if u, err := url.Parse(op.Remote); err == nil && u.User != nil {
			if p, ok := u.User.Password(); ok && len(p) > 3 && strings.Contains(op.Name(), ":"+url.PathEscape(p)+"@") {
				t.Errorf("%q is shown as %q", text, op.Name())
			}
		}
		if strings.HasPrefix(op.Remote, "file:") && !strings.HasPrefix(text, "file:///") {
			t.Errorf("%q gives the address %q", text, op.Remote)
		}
		if strings.HasPrefix(op.Subdir, "..") && !strings.Contains(text, "subdir=") {
			t.Errorf("%q gives the folder %q", text, op.Subdir)
		}
	})
}
