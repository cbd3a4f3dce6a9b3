package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

func TestLayout(t *testing.T) {
	img := smallImage(t)
	dir := testkit.OCILayout(t, img, "one")
	d, _ := img.Digest()
	m := newImages(t)
	for _, ref := range []string{"", ":one", "@" + d.String()} {
		r, err := m.Resolve(t.Context(), layoutScheme+dir+ref, amd64, false)
		if err != nil || r.Manifest.String() != d.String() || r.Pinned() != "" {
			t.Fatalf("Resolve(%q) = %+v, %v", ref, r, err)
		}
		view, err := m.layers.View(t.Context(), r.Chain)
		if err != nil {
			t.Fatal(err)
		}
		if b, _, err := snapshot.ReadFile(view, "etc/name", 100); string(b) != "one\n" || err != nil {
			t.Errorf("etc/name = %q, %v", b, err)
		}
	}
	if list, err := m.List(); err != nil || len(list) != 0 {
		t.Errorf("a layout took a name: %v, %v", list, err)
	}
}

func TestLayoutErrors(t *testing.T) {
	img := smallImage(t)
	dir := testkit.OCILayout(t, img, "one")
	m := newImages(t)
	for ref, want := range map[string]string{
		dir + ":two":  `none is tagged "two"; tags: one`,
		dir + "/nope": "not an OCI layout",
		t.TempDir():   "not an OCI layout",
		"":            "no folder is named",
		dir + "@sha256:" + strings.Repeat("0", 64): "no such file",
	} {
		_, err := m.Resolve(t.Context(), layoutScheme+ref, amd64, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %q", ref, err, want)
		}
	}
	// Bytes that are not those of their digest.
	d, _ := img.Digest()
	blob := filepath.Join(dir, "blobs", "sha256", d.Hex)
	if err := os.WriteFile(blob, []byte(`{}`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := m.Resolve(t.Context(), layoutScheme+dir, amd64, false)
	if err == nil || !strings.Contains(err.Error(), "have the digest") {
		t.Errorf("damaged manifest: %v", err)
	}
}

func TestParseLayout(t *testing.T) {
	colon := filepath.Join(t.TempDir(), "a:b")
	if err := os.Mkdir(colon, 0o755); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string][2]string{
		"/a/b":            {"/a/b", ""},
		"/a/b:1":          {"/a/b", "1"},
		"/a:1/b":          {"/a:1/b", ""},
		"/a@sha256:12":    {"/a", "sha256:12"},
		colon:             {colon, ""},
		colon + ":latest": {colon, "latest"},
	} {
		l, id, err := parseLayout(in)
		if err != nil || l.dir != want[0] || id != want[1] {
			t.Errorf("parseLayout(%s) = %s, %s, %v", in, l.dir, id, err)
		}
	}
}
