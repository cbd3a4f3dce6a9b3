package testkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// hostBusybox must be linked statically: nothing else of the host is in the image.
const hostBusybox = "/bin/busybox"

// Busybox returns a base image of one layer: the host's busybox with all its links, users root, daemon
// and app (1000:1001, also in group extra), ENV PATH and BASEVAR=base, CMD sh. The same busybox gives the
// same image, digest included. Its layer is gzip of stored blocks: with the race detector, inflating it for every
// build was most of the tests' time. A test is skipped on a host without it.
func Busybox(t testing.TB) v1.Image {
	t.Helper()
	if _, err := os.Stat(hostBusybox); err != nil {
		t.Skipf("the tests' base image is made from %s: install the package busybox-static", hostBusybox)
	}
	img, err := busybox()
	if err != nil {
		t.Fatalf("base image from %s: %v", hostBusybox, err)
	}
	return img
}

// busybox makes the image once for all tests of a process.
var busybox = sync.OnceValues(func() (v1.Image, error) {
	archive, err := busyboxTar()
	if err != nil {
		return nil, err
	}
	config := v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "BASEVAR=base"},
		Cmd: []string{"sh"},
	}
	return image(config, gzip.NoCompression, archive)
})

// Image returns an image of the given layers, lowest first, each an uncompressed tar.
func Image(t testing.TB, config v1.Config, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := image(config, gzip.BestSpeed, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func image(config v1.Config, level int, layers ...[]byte) (v1.Image, error) {
	epoch := v1.Time{Time: time.Unix(0, 0).UTC()}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      epoch,
		RootFS:       v1.RootFS{Type: "layers"},
		Config:       config,
	})
	if err != nil {
		return nil, err
	}
	for _, b := range layers {
		layer, err := tarball.LayerFromOpener(
			func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
			tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(level), tarball.WithCompressedCaching)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: epoch, CreatedBy: "testkit"},
		})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// OCILayout writes img into a new folder in the OCI image layout, under a tag, and returns the folder.
func OCILayout(t testing.TB, img v1.Image, tag string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	err = l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// OpenLayout returns the first image of an OCI layout, and what the index says of it.
func OpenLayout(t testing.TB, dir string) (v1.Image, v1.Descriptor) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, manifest.Manifests[0]
}

// busyboxTar returns the layer of the base image.
func busyboxTar() ([]byte, error) {
	binary, err := os.ReadFile(hostBusybox)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(hostBusybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	headers := []*tar.Header{
		{Name: "tmp/", Mode: 0o1777},
		{Name: "var/tmp/", Mode: 0o1777},
		{Name: "root/", Mode: 0o700},
		{Name: "home/app/", Mode: 0o755, Uid: 1000, Gid: 1001},
	}
	for _, dir := range []string{"bin", "dev", "etc", "home", "sbin", "usr", "usr/bin", "usr/sbin", "usr/local", "usr/local/bin", "usr/local/sbin", "var"} {
		headers = append(headers, &tar.Header{Name: dir + "/", Mode: 0o755})
	}
	for _, applet := range strings.Fields(string(list)) {
		if d := path.Dir(applet); d != "." && applet != "bin/busybox" { // linuxrc at the root is of no use
			headers = append(headers, &tar.Header{Name: applet, Mode: 0o777, Linkname: hostBusybox})
		}
	}
	files := map[string]string{
		"bin/busybox": string(binary),
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n" +
			"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
			"app:x:1000:1001:app:/home/app:/bin/sh\n",
		"etc/group": "root:x:0:\ndaemon:x:1:\nappg:x:1001:\nextra:x:2000:app\n",
	}
	for name, content := range files {
		headers = append(headers, &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	}
	slices.SortFunc(headers, func(a, b *tar.Header) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		h.ModTime = time.Unix(0, 0)
		switch {
		case h.Linkname != "":
			h.Typeflag = tar.TypeSymlink
		case strings.HasSuffix(h.Name, "/"):
			h.Typeflag = tar.TypeDir
		case h.Name == "bin/busybox":
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, files[h.Name]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
