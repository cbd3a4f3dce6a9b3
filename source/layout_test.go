package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
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
		dir + "@sha256:" + strings.Repeat("1", 64): "no such file",
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

// Whatever a layout says, what comes of it is an image whose bytes have the digests that it names, or an error.
func FuzzLayout(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:12","annotations":{"org.opencontainers.image.ref.name":"a"}}]}`), []byte("{}"), "a")
	f.Add([]byte(`{"manifests":[null]}`), []byte(`{"rootfs":{"diff_ids":["sha256:00"]}}`), "")
	f.Fuzz(func(t *testing.T, index, blob []byte, id string) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600), os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700)); err != nil {
			t.Fatal(err)
		}
		l := layout{dir}
		if err := os.WriteFile(l.blobFile(digest.Of(blob)), blob, 0o600); err != nil {
			t.Fatal(err)
		}
		d, doc, err := findManifest(t.Context(), l, id, amd64)
		if err == nil && (doc == nil || d != digest.Of(blob)) {
			t.Errorf("%q is taken for %s", blob, d)
		}
	})
}

// Whatever a config says is read or refused, and its layers have names.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:00"]},"created":"2020-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var i Image
		spec, err := i.read(raw)
		if err == nil && len(i.Layers) != len(spec.RootFS.DiffIDs) {
			t.Errorf("%d layers of %d", len(i.Layers), len(spec.RootFS.DiffIDs))
		}
	})
}

// A damaged record of the store names no image, or one that the name fits.
func FuzzImageRecord(f *testing.F) {
	m := newImages(f)
	put(f, m, testImage("docker.io/library/a:1", "linux/amd64", 1))
	file := recordFile("name docker.io/library/a:1")
	b, err := m.disk.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("[null]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := m.disk.WriteFile(file, b); err != nil {
			t.Fatal(err)
		}
		img, ok, err := m.Get("a:1", ocispec.Platform{})
		if err != nil || ok && img.Name != "docker.io/library/a:1" {
			t.Errorf("%+v %v", img, err)
		}
	})
}
