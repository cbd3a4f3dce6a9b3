package exporter_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/testkit"
)

func untar(t testing.TB, path string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for last := ""; ; {
		h, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last || h.Uid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("header %+v after %s", h, last)
		}
		last = h.Name
		p := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(p, 0o755)
		} else {
			b, _ := io.ReadAll(tr)
			err = os.WriteFile(p, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func valid(t testing.TB, img v1.Image) {
	t.Helper()
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}

func TestOCI(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	dest := filepath.Join(t.TempDir(), "a.tar")
	r := w.export(t, img, "type=oci,dest="+dest, "app:1", "ghcr.io/me/app")
	dir := untar(t, dest)
	got, _ := testkit.OpenLayout(t, dir)
	valid(t, got)
	if d := cmp.Diff(files, short(testkit.ListImage(t, got), true)); d != "" {
		t.Error(d)
	}

	var index ocispec.Index
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations["io.containerd.image.name"]+" "+m.Annotations["org.opencontainers.image.ref.name"])
		if m.Digest != index.Manifests[0].Digest {
			t.Error("two names have two digests")
		}
	}
	if d := cmp.Diff([]string{"docker.io/library/app:1 1", "ghcr.io/me/app:latest latest"}, names); d != "" {
		t.Error(d)
	}

	manifest, _ := got.Manifest()
	base, _ := baseImage(t).Manifest()
	for i, l := range manifest.Layers {
		if l.MediaType != types.OCILayer {
			t.Errorf("layer %d: %s", i, l.MediaType)
		}
		if i < 2 && l.Digest != base.Layers[i].Digest {
			t.Errorf("layer %d of the base has another digest: %s", i, l.Digest)
		}
	}
	meta, _ := json.Marshal(r.Metadata())
	d, _ := got.Digest()
	id, _ := got.ConfigName()
	size, _ := got.Size()
	want := map[string]any{
		"containerimage.config.digest": id.String(),
		"containerimage.digest":        d.String(),
		"containerimage.descriptor":    map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d.String(), "size": float64(size)},
		"image.name":                   "docker.io/library/app:1,ghcr.io/me/app:latest",
	}
	var gotMeta map[string]any
	if err := json.Unmarshal(meta, &gotMeta); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, gotMeta); d != "" {
		t.Error(d)
	}
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDocker(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	for _, compression := range []string{"gzip", "uncompressed"} {
		dest := filepath.Join(t.TempDir(), "a.tar")
		w.export(t, img, "type=docker,dest="+dest+",compression="+compression, "app:1", "me/app:2")
		dir := untar(t, dest)
		inLayout, _ := testkit.OpenLayout(t, dir)
		var m []struct {
			Config   string
			RepoTags []string
			Layers   []string
		}
		readJSON(t, filepath.Join(dir, "manifest.json"), &m)
		if len(m) != 1 || m[0].Config != "blobs/sha256/"+img.Config.Hex() || len(m[0].Layers) != 4 || !cmp.Equal(m[0].RepoTags, []string{"app:1", "me/app:2"}) {
			t.Errorf("manifest.json = %+v", m)
		}
		tag, _ := name.NewTag("me/app:2")
		got, err := tarball.ImageFromPath(dest, &tag)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(files, short(testkit.ListImage(t, got), true)); d != "" {
			t.Error(d)
		}
		if compression == "gzip" { // what the library validates must be
			valid(t, got)
			valid(t, inLayout)
		}
	}
}

// Bytes depend on the image alone, whatever the store and the compression.
func TestDeterministic(t *testing.T) {
	for _, output := range []string{"type=oci", "type=oci,compression=uncompressed", "type=oci,compression=zstd", "type=docker,dest=-", "type=tar"} {
		var first []byte
		for range 2 {
			w := newWorld(t)
			w.export(t, w.build(t, nil), output, "app:1")
			if first == nil {
				first = bytes.Clone(w.stdout.Bytes())
			} else if !bytes.Equal(first, w.stdout.Bytes()) {
				t.Errorf("%s: two stores give different bytes", output)
			}
		}
	}
}
