package reference_test

import (
	"strings"
	"testing"

	distribution "github.com/distribution/reference"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
)

var sum = digest.Of(nil).String()

var names = []string{
	"app", "app:1", "org/app", "org/team/app:v1.2_3-x", "docker.io/app", "index.docker.io/app", "docker.io/library/app:latest", "library/app", "library/team/app",
	"localhost/app", "localhost:5000/app", "localhost", "host.example/app", "host.example:5000/org/app:1", "HOST/app", "10.0.0.1/app", "[::1]/app", "[fe80::A]:80/app:1",
	"app@" + sum, "app:1@" + sum, "host.example/app@" + sum,
	"", "/", "app:", "app@", "app@sha256:abc", "app:1:2", "App", "org/App", "app:" + strings.Repeat("t", 128), "app:" + strings.Repeat("t", 129), "app:-1", "app:.1",
	"a.b", "a..b", "a_b", "a__b", "a___b", "a---b", "a-", "-a", "a/", "/a", "a//b", "a b", "ä", "a:ä", "[::1", "[]/a", "[::1]x/a", "host.example:/a", "host.example:x/a",
	"-host.example/a", "host-.example/a", "host..example/a", "host.example", ".example/a", strings.Repeat("a", 256), "org/" + strings.Repeat("a", 251),
	"app@sha512:" + strings.Repeat("a", 128), "app@md5:" + strings.Repeat("a", 32), "app@sha256:" + strings.Repeat("a", 33), "app@sha256:" + strings.Repeat("A", 64),
	"app@1a:" + strings.Repeat("a", 64), "app@a+b:" + strings.Repeat("a", 64), strings.Repeat("a", 64), strings.Repeat("a", 64) + ":1", sum, "a@b@" + sum,
}

// compare holds what is read of a name against what the package does that docker, podman and BuildKit use.
func compare(t *testing.T, name string) {
	want, theirs := distribution.ParseNormalizedNamed(name)
	got, ours := reference.Parse(name)
	switch {
	case theirs != nil && ours == nil:
		t.Fatalf("%q is read as %q; want the error %v", name, got, theirs)
	case theirs != nil && strings.Contains(theirs.Error(), "digest"): // theirs are about algorithms that we do not know
		return
	case theirs != nil:
		if ours.Error() != theirs.Error() {
			t.Fatalf("%q: the error is %q, want %q", name, ours, theirs)
		}
		return
	case distribution.Domain(want) == "": // a host that can be none, taken for a path: nothing can be asked there
		if ours == nil {
			t.Fatalf("%q is read as %q; want an error", name, got)
		}
		return
	}
	d, pinned := want.(distribution.Digested)
	if pinned && d.Digest().Algorithm() != "sha256" {
		if ours == nil {
			t.Fatalf("%q is read as %q, of a digest that we do not know", name, got)
		}
		return
	}
	if ours != nil {
		t.Fatalf("%q: %v; want %q", name, ours, want)
	}
	for _, c := range [][2]string{
		{got.String(), want.String()}, {got.Familiar(), distribution.FamiliarString(want)}, {got.Name(), want.Name()},
		{got.Domain, distribution.Domain(want)}, {got.Tagged().String(), distribution.TagNameOnly(want).String()},
	} {
		if c[0] != c[1] {
			t.Fatalf("%q: %q, want %q", name, c[0], c[1])
		}
	}
	if again, err := reference.Parse(got.Familiar()); err != nil || again != got {
		t.Fatalf("%q is %q, which is read as %q, %v", name, got.Familiar(), again, err)
	}
}

func TestParse(t *testing.T) {
	for _, name := range names {
		compare(t, name)
	}
}

func TestFamiliar(t *testing.T) {
	for name, want := range map[string]string{"docker.io/library/app:1": "app:1", "docker.io/org/app": "org/app", "not a name": "not a name"} {
		if got := reference.Familiar(name); got != want {
			t.Errorf("Familiar(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range names {
		f.Add(name)
	}
	f.Fuzz(compare)
}
