package exporter_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/testkit"
)

func TestTarAndLocal(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	w.export(t, img, "-")
	archive := bytes.Clone(w.stdout.Bytes())
	if d := cmp.Diff(files, short(testkit.ListTar(t, bytes.NewReader(archive)), true)); d != "" {
		t.Error(d)
	}
	last := ""
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Name <= last {
			t.Errorf("%s after %s", h.Name, last)
		}
		last = h.Name
	}

	dest := filepath.Join(t.TempDir(), "new", "out")
	for range 2 { // into a new folder, and over itself
		w.export(t, img, dest)
		if d := cmp.Diff(short(files, false), short(testkit.ListDir(t, dest), false)); d != "" {
			t.Error(d)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(dest, "opt"), &st); err != nil || int(st.Uid) != os.Getuid() {
		t.Errorf("owner %d, %v", st.Uid, err)
	}
	fi, err := os.Stat(filepath.Join(dest, "app"))
	if err != nil || fi.ModTime().Unix() != 1_700_000_000 {
		t.Errorf("time %v, %v", fi.ModTime(), err)
	}
}

func TestEpochOfFiles(t *testing.T) {
	w := newWorld(t)
	epoch := time.Unix(1_600_000_000, 0)
	img := w.build(t, &epoch)
	w.export(t, img, "-")
	tr := tar.NewReader(&w.stdout)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s: %v", h.Name, h.ModTime)
		}
	}
}

// What the folder has is kept or replaced; no link in it leads out.
func TestLocalExisting(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	outside, dest := t.TempDir(), t.TempDir()
	testkit.Tree(t, outside, "name = host\n", "victim = host\n", "dir/")
	testkit.Tree(t, dest,
		"mine = keep\n", "opt/mine = keep\n", // stays
		"bin = a file\n",  // a directory is to be here
		"app/sub/x = x\n", // a file is to be here
		"link/ 500",       // a link is to be here
		"tmp/ 000",
		"etc -> "+outside,
		"app2 -> "+outside+"/victim",
		"zz => mine", // must not write through the other name
	)
	w.export(t, img, dest)
	if got := testkit.ListDir(t, outside); strings.Count(got, "\n") != 3 || !strings.Contains(got, "f victim 5 ") || !strings.Contains(got, "f name 5 ") {
		t.Errorf("outside:\n%s", got)
	}
	got := short(testkit.ListDir(t, dest), false)
	got = strings.Replace(got, "0644 f mine 5 sha256:\n", "", 1)
	got = strings.Replace(got, "0644 f opt/mine 5 sha256:\n", "", 1)
	if d := cmp.Diff(short(files, false), got); d != "" {
		t.Error(d)
	}
}

func TestLocalDevice(t *testing.T) {
	w := newWorld(t)
	base := testkit.Image(t, v1.Config{}, deviceTar(t))
	r, err := w.images.Resolve(t.Context(), "oci-layout://"+testkit.OCILayout(t, base, "latest"), ocispec.Platform{}, false)
	if err != nil {
		t.Fatal(err)
	}
	img, err := exporter.Load(w.Disk, w.Layers, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	w.export(t, img, dest)
	if got := testkit.ListDir(t, dest); got != "" || len(w.warned) != 1 || !strings.Contains(w.warned[0], "null: a device") {
		t.Errorf("files %q, warnings %q", got, w.warned)
	}
	w.export(t, img, "-")
	if got := testkit.ListTar(t, &w.stdout); !strings.Contains(got, "c null 1,3") {
		t.Errorf("tar: %s", got)
	}
}

func deviceTar(t *testing.T) []byte {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	return b.Bytes()
}
