package exporter_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

// An export that fails leaves the file that was there before, and nothing else.
func TestNoHalfFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, w *world, img *exporter.Image) context.Context
		want string
	}{
		{"damaged layer", func(t *testing.T, w *world, img *exporter.Image) context.Context {
			chain, err := w.Layers.Chain(img.Chain)
			if err != nil {
				t.Fatal(err)
			}
			b, err := w.Layers.Compressed(t.Context(), chain, snapshot.Compression{MediaType: snapshot.MediaTypeTarGzip})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range []digest.Digest{b.Digest, chain.Layer} { // the form in archives, and the one that files are read from
				flip(t, w.Disk, d)
			}
			*w = *openWorld(t, w.Disk.Root()) // who has written something does not doubt it
			return t.Context()
		}, "damaged"},
		{"cancelled", func(t *testing.T, w *world, img *exporter.Image) context.Context {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("enough"))
			return ctx
		}, "enough"},
	} {
		for _, output := range []string{"oci", "docker", "tar"} {
			w := newWorld(t)
			img := w.build(t, nil)
			ctx := c.harm(t, w, img)
			dir := t.TempDir()
			dest := filepath.Join(dir, "a.tar")
			testkit.Tree(t, dir, "a.tar = before\n")
			o, err := exporter.ParseOutput("type=" + output + ",dest=" + dest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Export(ctx, []*exporter.Image{img}, o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: error = %v", c.name, output, err)
			}
			if got := testkit.ListDir(t, dir); !strings.Contains(got, "f a.tar 7 ") || strings.Count(got, "\n") != 1 {
				t.Errorf("%s, %s: %s", c.name, output, got)
			}
		}
	}
}

// flip changes a byte of a blob: of a file, if it can be seen.
func flip(t *testing.T, disk *cache.Store, d digest.Digest) {
	t.Helper()
	h := d.Hex()
	p := disk.Path(filepath.Join("blobs", "sha256", h[:2], h[2:]))
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte("new\n"))
	if i < 0 {
		i = len(b) / 2
	}
	b[i] ^= 1
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	for _, output := range []string{"type=oci,dest=/dev/full", "type=tar,dest=/dev/full"} {
		o, err := exporter.ParseOutput(output)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Export(t.Context(), []*exporter.Image{img}, o); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", output, err)
		}
	}
	if fi, err := os.Stat("/dev/full"); err != nil || fi.Mode().IsRegular() {
		t.Fatal("/dev/full was replaced")
	}
	o := exporter.Output{Type: exporter.TypeTar, Dest: filepath.Join(t.TempDir(), "no", "a.tar")}
	if _, err := w.Export(t.Context(), []*exporter.Image{img}, o); err == nil || !strings.Contains(err.Error(), "no/a.tar: no such file") {
		t.Errorf("missing folder: %v", err)
	}
}
