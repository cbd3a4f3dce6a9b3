package testkit

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if want = strings.TrimPrefix(want, "\n"); got != want {
		t.Errorf("%s: got:\n%s\nwant:\n%s", what, got, want)
	}
}

// pull downloads an image with its layers, and checks all digests.
func pull(t *testing.T, ref string, options ...remote.Option) (v1.Image, error) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r, append(options, remote.WithRetryStatusCodes())...)
	if err != nil {
		return nil, err
	}
	return img, validate.Image(img)
}

func small(t *testing.T) v1.Image {
	return Image(t, v1.Config{}, Tar(t, "a = "+strings.Repeat("some text ", 1000)))
}

func TestRegistry(t *testing.T) {
	var rec Recorder
	host := Registry(t, rec.Record)
	if n := rec.Count(""); n != 0 {
		t.Errorf("%d requests before the first: %q", n, rec.Requests())
	}
	ref := PushImage(t, host, "app:1", small(t))
	if ref != host+"/app:1" {
		t.Errorf("reference %q", ref)
	}
	rec.Reset()
	img, err := pull(t, ref)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "files", ListImage(t, img), "0644 0:0 f a 10000 sha256:f94c5b0651da\n")
	if rec.Count("GET /v2/app/manifests/1") != 1 || rec.Count("GET /v2/app/blobs/") == 0 || rec.Count("PUT ") != 0 {
		t.Errorf("requests: %q", rec.Requests())
	}
}

func TestBasicAuth(t *testing.T) {
	host := Registry(t, BasicAuth("me", "secret"))
	auth := remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"})
	ref := PushImage(t, host, "app:1", small(t), auth)
	if _, err := pull(t, ref, auth); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if _, err := pull(t, ref); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("without: %v", err)
	}
}

// faulty lets the push through and then answers with faults.
type faulty struct {
	faults Middleware
	on     bool
}

func (f *faulty) wrap(next http.Handler) http.Handler {
	bad := f.faults(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.on {
			bad.ServeHTTP(w, r)
		} else {
			next.ServeHTTP(w, r)
		}
	})
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults Middleware
		want   string
	}{
		{"unauthorized", Unauthorized(), "UNAUTHORIZED"},
		{"no manifest", Fail("GET /v2/app/manifests/", http.StatusNotFound), "UNKNOWN: Not Found"},
		{"no blob", Fail("/blobs/", http.StatusNotFound), "UNKNOWN: Not Found"},
		{"other repository", Fail("/v2/other/", http.StatusNotFound), ""},
		{"cut", CutBlobs(20), "unexpected EOF"},
		{"not cut", CutBlobs(1 << 20), ""},
		{"damaged", DamageBlobs(), "error verifying sha256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := faulty{faults: c.faults}
			ref := PushImage(t, Registry(t, f.wrap), "app:1", small(t))
			f.on = true
			_, err := pull(t, ref)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestBusybox(t *testing.T) {
	img, err := pull(t, PushImage(t, Registry(t), "busybox:latest", Busybox(t)))
	if err != nil {
		t.Fatal(err)
	}
	list := ListImage(t, img)
	for _, line := range []string{
		"0777 0:0 l bin/sh -> /bin/busybox",
		"0777 0:0 l usr/bin/env -> /bin/busybox",
		"0755 1000:1001 d home/app",
		"0700 0:0 d root",
		"1777 0:0 d tmp",
	} {
		if !strings.Contains(list, line+"\n") {
			t.Errorf("no %q in\n%s", line, list)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Cmd, []string{"sh"}) || !slices.Contains(config.Config.Env, "BASEVAR=base") {
		t.Errorf("config %+v", config.Config)
	}
	first, err := busyboxTar()
	if err != nil {
		t.Fatal(err)
	}
	second, err := busyboxTar()
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two layers differ (%v)", err)
	}
	// Nothing of the host is needed to run it.
	dir := t.TempDir()
	tar := exec.Command("tar", "-x", "--no-same-owner", "-C", dir)
	tar.Stdin = bytes.NewReader(first)
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	if os.Getuid() == 0 {
		out, err := exec.Command("chroot", dir, "/bin/sh", "-c", "id -u app; id -Gn app").CombinedOutput()
		check(t, "chroot", string(out), "1000\nappg extra\n")
		if err != nil {
			t.Error(err)
		}
	}
}

func TestOCILayout(t *testing.T) {
	want := small(t)
	dir := OCILayout(t, want, "app:1")
	got, m := OpenLayout(t, dir)
	digest, err := want.Digest()
	if err != nil || m.Digest != digest || m.Annotations["org.opencontainers.image.ref.name"] != "app:1" {
		t.Errorf("%v: manifest %+v", err, m)
	}
	check(t, "the image", ListImage(t, got), ListImage(t, want))
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
}

// specs has one of each kind.
var specs = []string{
	"b/ 700 @1700000000",
	"b/run 4755 @1600000000 = #!/bin/sh\nexit 0 = x -> y\n",
	"b/empty 600",
	"link -> b/run",
	"broken @1500000000 -> /a = b",
	"b/hard => b/run",
	"pipe fifo 622",
	"sticky/ 1777",
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	Tree(t, dir, append(specs, "deep/down/file = x")...)
	owner := fmt.Sprintf(" %d:%d ", os.Getuid(), os.Getgid())
	check(t, "folder", ListDir(t, dir), strings.ReplaceAll(`
0700 0:0 d b
0600 0:0 f b/empty 0 sha256:e3b0c44298fc
4755 0:0 f b/hard 26 sha256:8356dd83f3bd
4755 0:0 h b/run -> b/hard
0777 0:0 l broken -> /a = b
0755 0:0 d deep
0755 0:0 d deep/down
0644 0:0 f deep/down/file 1 sha256:2d711642b726
0777 0:0 l link -> b/run
0622 0:0 p pipe
1777 0:0 d sticky
`, " 0:0 ", owner))
	for name, want := range map[string]int64{"b": 1700000000, "b/run": 1600000000, "broken": 1500000000} {
		st, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := st.ModTime().Unix(); got != want {
			t.Errorf("%s was modified at %d, want %d", name, got, want)
		}
	}
}

// A tree and the tar of the same specs have the same listing.
func TestTar(t *testing.T) {
	dir := t.TempDir()
	Tree(t, dir, specs...)
	archive := Tar(t, specs...)
	if os.Getuid() == 0 {
		check(t, "tar", ListTar(t, bytes.NewReader(archive)), ListDir(t, dir))
	}
	cmd := exec.Command("tar", "-t")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	check(t, "GNU tar", string(out), "b/\nb/run\nb/empty\nlink\nbroken\nb/hard\npipe\nsticky/\n")
}

func TestBadSpecs(t *testing.T) {
	for _, spec := range []string{"", " = x", "a 999", "a 77777", "a root:root", "a @now", "a word"} {
		if e, err := parse(spec); err == nil {
			t.Errorf("%q is %+v", spec, e)
		}
	}
}

func TestTarAsWrongAsNeeded(t *testing.T) {
	archive := Tar(t, "./", "../out 1:2 = x", "/abs", "h => gone", "a/.wh.b")
	check(t, "tar", ListTar(t, bytes.NewReader(archive)), `
0644 1:2 f ../out 1 sha256:2d711642b726
0644 0:0 f a/.wh.b 0 sha256:e3b0c44298fc
0644 0:0 f abs 0 sha256:e3b0c44298fc
0644 0:0 h h -> gone
`)
}

func TestListImage(t *testing.T) {
	const x, empty = "1 sha256:2d711642b726", "0 sha256:e3b0c44298fc"
	for _, c := range []struct {
		name   string
		layers [][]string
		want   string
	}{
		{"later wins", [][]string{{"a 600"}, {"a 1:2 = x"}}, "0644 1:2 f a " + x + "\n"},
		{"whiteout", [][]string{{"d/", "d/a", "d/ab"}, {"d/.wh.a"}}, "0755 0:0 d d\n0644 0:0 f d/ab " + empty + "\n"},
		{"whiteout of a folder", [][]string{{"d/", "d/a", "da"}, {".wh.d"}}, "0644 0:0 f da " + empty + "\n"},
		{"whiteout of what is written again", [][]string{{"d/", "d/a"}, {"d/", "d/b", ".wh.d"}}, "0755 0:0 d d\n0644 0:0 f d/b " + empty + "\n"},
		{"opaque", [][]string{{"d/", "d/a", "e"}, {"d/ 700", "d/b", "d/.wh..wh..opq"}}, "0700 0:0 d d\n0644 0:0 f d/b " + empty + "\n0644 0:0 f e " + empty + "\n"},
		{"opaque root", [][]string{{"d/", "d/a"}, {".wh..wh..opq", "b"}}, "0644 0:0 f b " + empty + "\n"},
		{"whiteout of nothing", [][]string{{"a"}, {".wh.b"}}, "0644 0:0 f a " + empty + "\n"},
		{"folder becomes a file", [][]string{{"d/", "d/a"}, {"d = x"}}, "0644 0:0 f d " + x + "\n"},
		{"file becomes a folder", [][]string{{"d"}, {"d/", "d/a"}}, "0755 0:0 d d\n0644 0:0 f d/a " + empty + "\n"},
		{"folder changes its mode", [][]string{{"d/", "d/a"}, {"d/ 700"}}, "0700 0:0 d d\n0644 0:0 f d/a " + empty + "\n"},
		{"hard link outlives its name", [][]string{{"a = x", "b => a"}, {"a"}}, "0644 0:0 f a " + empty + "\n0644 0:0 f b " + x + "\n"},
		{"hard link to a lower layer", [][]string{{"a = x"}, {"b => a"}}, "0644 0:0 f a " + x + "\n0644 0:0 h b -> a\n"},
	} {
		var layers [][]byte
		for _, l := range c.layers {
			layers = append(layers, Tar(t, l...))
		}
		check(t, c.name, ListImage(t, Image(t, v1.Config{}, layers...)), c.want)
	}
}
