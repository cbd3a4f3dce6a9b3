package llb_test

import (
	"reflect"
	"testing"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
)

// unhashed are the fields that must not count, each with its reason.
var unhashed = map[string]string{
	"Image.Ref":  "where the layers come from does not change what they are",
	"Exec.Proxy": "how the network is reached must not change what is built",
}

// full returns an operation of each kind with every field set.
func full() []llb.Op {
	epoch := int64(1)
	return []llb.Op{
		&llb.Image{Layers: []digest.Digest{{1}, {2}}, Ref: "r"},
		&llb.Local{Name: "context", Exclude: []string{"a", "b"}},
		&llb.HTTP{URL: "https://h/f", Filename: "f", Checksum: digest.Digest{1}},
		&llb.Git{Remote: "https://h/r.git", Ref: "r", Subdir: "s", Checksum: "c", KeepGitDir: true, SkipSubmodules: true, FetchByCommit: true, CheckoutTime: true},
		&llb.Exec{Args: []string{"a", "b"}, Env: []string{"A=1"}, Cwd: "/", User: "u", Network: llb.NetworkNone, Hostname: "h",
			Hosts: []llb.Host{{Name: "n", IP: "::1"}}, Security: llb.Security{Insecure: true}, Proxy: []string{"http_proxy=x"}, Mounts: []llb.Mount{
				{Type: llb.MountBind, Target: "/b", From: 1, Source: "/s", ReadOnly: true},
				{Type: llb.MountCache, Target: "/c", ID: "c", Sharing: llb.SharingLocked, Access: &llb.Access{Mode: 0o700, UID: 1, GID: 2}},
				{Type: llb.MountTmpfs, Target: "/t", Size: 1},
				{Type: llb.MountSecret, Target: "/s", ID: "s", Required: true, Env: "S", Access: &llb.Access{}},
				{Type: llb.MountSSH, Target: "/a", ID: "default", Access: &llb.Access{Mode: 0o600}},
			}, Devices: []llb.Device{{Name: "d", Required: true}}},
		&llb.File{Actions: []llb.Action{
			&llb.Copy{From: 1, Sources: []llb.Source{{Path: "/a", Wildcard: true, Include: "i", Required: true}}, Exclude: []string{"e"},
				Dest: "/d", Owner: &llb.Owner{Text: "1:2"}, Mode: "0640", Unpack: true},
			&llb.Mkdir{Path: "/m", Mode: 0o755, Owner: &llb.Owner{Text: "x"}, Time: &epoch},
			&llb.Mkfile{Path: "/f", Mode: 0o644, Data: []byte("d"), Time: &epoch},
		}},
	}
}

// Whatever can change a result is in the digest of its operation.
func TestEveryFieldCounts(t *testing.T) {
	for n, op := range full() {
		before := llb.OpDigest(op)
		name := reflect.TypeOf(op).Elem().Name()
		testkit.Leaves(reflect.ValueOf(op), name, func(path string, _ reflect.Value) {
			changed := full()[n]
			testkit.Leaves(reflect.ValueOf(changed), name, func(p string, v reflect.Value) {
				if p == path {
					testkit.Change(t, v)
				}
			})
			same := llb.OpDigest(changed) == before
			if _, skip := unhashed[trim(path)]; skip != same {
				t.Errorf("%s changed: same digest %v, want %v", path, same, skip)
			}
		})
	}
}

// trim drops indexes from a path of fields.
func trim(path string) string {
	for i, c := range path {
		if c == '[' {
			return path[:i]
		}
	}
	return path
}

// The end of one list and the start of the next must not run together.
func TestListsDoNotRunTogether(t *testing.T) {
	seen := map[digest.Digest]string{}
	for name, op := range map[string]llb.Op{
		"ab|":   &llb.Exec{Args: []string{"a", "b"}},
		"a|b":   &llb.Exec{Args: []string{"a"}, Env: []string{"b"}},
		"|ab":   &llb.Exec{Env: []string{"a", "b"}},
		"a b|":  &llb.Exec{Args: []string{"ab"}},
		"file":  &llb.File{},
		"none":  &llb.Exec{},
		"img":   &llb.Image{},
		"merge": &llb.Merge{},
	} {
		d := llb.OpDigest(op)
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

func TestMetaDoesNotCount(t *testing.T) {
	a := llb.New(&llb.Image{}, nil, llb.Meta{Label: "a"})
	b := llb.New(&llb.Image{}, nil, llb.Meta{Label: "b", NoCache: true, Pos: llb.Position{File: "f", Start: 1}})
	if a.ID() != b.ID() {
		t.Error("what people see of a vertex changes its ID")
	}
	c := llb.New(&llb.Exec{}, []*llb.Vertex{a}, llb.Meta{})
	d := llb.New(&llb.Exec{}, []*llb.Vertex{c}, llb.Meta{})
	if c.ID() == d.ID() {
		t.Error("an input does not change the ID")
	}
}

// An address is shown without what is secret in it, whether it is a right one or not.
func TestNamesShowNoSecrets(t *testing.T) {
	for address, want := range map[string]string{
		"https://h/f?token=x#y":    "https://h/f",
		"https://user:secret@h/f":  "https://h/f",
		"ssh://git:secret@h/r":     "ssh://git@h/r",
		"ssh://:secret@":           "ssh://@",
		"https://u:sec%zzret@h/f":  "https://h/f",
		"https://u:se@cret@h:x/@f": "https://f",
		"git@h:r":                  "git@h:r",
		"not an address":           "not an address",
	} {
		if got := (&llb.HTTP{URL: address}).Name(); got != want {
			t.Errorf("%s is shown as %s, want %s", address, got, want)
		}
	}
}
