package exporter_test

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A world is a store with all that works on it.
type world struct {
	*exporter.Exporter
	images *source.Images
	stdout bytes.Buffer
	warned []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return openWorld(t, filepath.Join(t.TempDir(), "store"))
}

// openWorld opens a store as another process would.
func openWorld(t testing.TB, root string) *world {
	t.Helper()
	disk, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	client := source.NewClient("test")
	layers := snapshot.New(disk, client.Fetch)
	w := &world{images: source.NewImages(disk, layers, client)}
	w.Exporter = &exporter.Exporter{Disk: disk, Layers: layers, Tagger: w.images, Pusher: client, Stdout: &w.stdout,
		Warn: func(s string) { w.warned = append(w.warned, s) }}
	return w
}

func baseImage(t testing.TB) v1.Image {
	return testkit.Image(t, v1.Config{Env: []string{"A=b & c"}, Cmd: []string{"sh"}},
		testkit.Tar(t, "bin/", "bin/su 4755 0:7 = su\n", "etc/", "etc/gone = x\n", "etc/name 640 1:2 @1000000000 = base\n", "etc/also => etc/name", "tmp/ 1777"),
		testkit.Tar(t, "etc/", "etc/.wh.gone", "opt/ 700 3:4", "opt/pipe fifo", "opt/z = hard\n", "bin/h => opt/z", "bin/i => bin/h"))
}

var buildTime = time.Date(2026, 8, 1, 10, 0, 0, 123456789, time.UTC)

// build puts two layers on a base that is a layout, as a build would.
func (w *world) build(t testing.TB, epoch *time.Time) *exporter.Image {
	t.Helper()
	dir := testkit.OCILayout(t, baseImage(t), "latest")
	base, err := w.images.Resolve(t.Context(), "oci-layout://"+dir, ocispec.Platform{}, false)
	if err != nil {
		t.Fatal(err)
	}
	chain := base.Chain
	big := strings.Repeat("all work and no play\n", 100_000)
	for i, files := range [][]snapshot.Entry{
		{file("app", 0o755, "app\n"), file("app2", 0o644, big), {Path: "link", Type: snapshot.Symlink, Link: "/etc/../app", Mode: 0o777}},
		{file("etc/name", 0o644, "new\n"), file("zz", 0o4711, "z"), {Path: "zz2", Type: snapshot.Hardlink, Link: "zz"}},
	} {
		view, err := w.Layers.View(t.Context(), chain)
		if err != nil {
			t.Fatal(err)
		}
		c := snapshot.NewChanges(view)
		for _, e := range files {
			content := e.Link
			if e.Type == snapshot.Regular {
				e.Link = ""
			}
			if err := c.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }); err != nil {
				t.Fatal(err)
			}
		}
		if chain, err = w.Layers.Commit(t.Context(), chain, c, snapshot.Making{Created: buildTime.Add(time.Duration(i) * time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	spec := base.Spec
	spec.Config.Entrypoint = []string{"/app"}
	spec.History = append(spec.History, ocispec.History{CreatedBy: "one"}, ocispec.History{CreatedBy: "two"}, ocispec.History{CreatedBy: "three", EmptyLayer: true})
	img, err := exporter.Finish(w.Disk, w.Layers, exporter.Build{Spec: spec, Chain: chain, Base: len(base.Layers)}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// file returns a regular file; the content is on loan in Link.
func file(p string, mode uint32, content string) snapshot.Entry {
	return snapshot.Entry{Path: p, Type: snapshot.Regular, Mode: mode, Size: int64(len(content)), Mtime: 1_700_000_000, Link: content}
}

func (w *world) export(t testing.TB, img *exporter.Image, output string, names ...string) *exporter.Result {
	t.Helper()
	o, err := exporter.ParseOutput(output)
	if err != nil {
		t.Fatal(err)
	}
	o.Names = names
	r, err := w.Export(t.Context(), []*exporter.Image{img}, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files is what the image that build makes holds.
const files = `0755 0:0 f app 4 sha256:
0644 0:0 f app2 2100000 sha256:
0755 0:0 d bin
0644 0:0 f bin/h 5 sha256:
0644 0:0 h bin/i -> bin/h
4755 0:7 f bin/su 3 sha256:
0755 0:0 d etc
0640 1:2 f etc/also 5 sha256:
0644 0:0 f etc/name 4 sha256:
0777 0:0 l link -> /etc/../app
0700 3:4 d opt
0644 0:0 p opt/pipe
0644 0:0 h opt/z -> bin/h
1777 0:0 d tmp
4711 0:0 f zz 1 sha256:
4711 0:0 h zz2 -> zz
`

// short takes the digests and the owners, if wanted, out of a listing.
func short(listing string, owners bool) string {
	var out []string
	for _, l := range strings.Split(listing, "\n") {
		l, _, cut := strings.Cut(l, "sha256:")
		if cut {
			l += "sha256:"
		}
		if f := strings.SplitN(l, " ", 3); len(f) == 3 && !owners {
			l = f[0] + " " + f[2]
		}
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}

// Config, history and times are those of the build.
func TestConfig(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	raw, err := w.Disk.ReadBlob(img.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"architecture":"` + runtime.GOARCH + `","config":{"Env":["A=b \u0026 c"],"Entrypoint":["/app"],"Cmd":["sh"]},"created":"2026-08-01T10:01:00.123456789Z","history":[`,
		`{"created":"2026-08-01T10:00:00.123456789Z","created_by":"one"},{"created":"2026-08-01T10:01:00.123456789Z","created_by":"two"},{"created":"2026-08-01T10:01:00.123456789Z","created_by":"three","empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("config = %s\nwant in it %s", raw, want)
		}
	}
	epoch := time.Unix(1_600_000_000, 0)
	var spec ocispec.Image
	if _, err := w.Disk.ReadBlob(newWorld(t).build(t, &epoch).Config); err == nil {
		t.Error("the config of another store is here")
	}
	img = w.build(t, &epoch)
	raw, _ = w.Disk.ReadBlob(img.Config)
	if err := json.Unmarshal(raw, &spec); err != nil {
		t.Fatal(err)
	}
	n := len(spec.History)
	if !spec.Created.Equal(epoch) || !spec.History[n-1].Created.Equal(epoch) || spec.History[0].Created.Unix() != 0 {
		t.Errorf("with an epoch: %s", raw)
	}
	loaded, err := exporter.Load(w.Disk, w.Layers, img.Config)
	if err != nil || loaded.Chain != img.Chain || loaded.Config != img.Config {
		t.Errorf("Load = %+v, %v", loaded, err)
	}
}

// An image of nothing is valid too.
func TestScratch(t *testing.T) {
	w := newWorld(t)
	b := exporter.Build{}
	b.Spec.OS, b.Spec.Architecture = "linux", "amd64"
	img, err := exporter.Finish(w.Disk, w.Layers, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := w.Disk.ReadBlob(img.Config)
	if want := `{"architecture":"amd64","config":{},"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`; string(raw) != want {
		t.Errorf("config = %s", raw)
	}
	dest := filepath.Join(t.TempDir(), "a.tar")
	r := w.export(t, img, "type=oci,dest="+dest)
	written, _ := testkit.OpenLayout(t, untar(t, dest))
	valid(t, written)
	if _, ok := r.Metadata()["image.name"]; ok {
		t.Error("a name out of nowhere")
	}
	w.export(t, img, "-")
	if got := testkit.ListTar(t, &w.stdout); got != "" {
		t.Errorf("files = %s", got)
	}
	if _, err := exporter.Finish(w.Disk, w.Layers, exporter.Build{}, nil); err == nil {
		t.Error("an image without a platform")
	}
}

// The store has the image under its names, or under its ID.
func TestStore(t *testing.T) {
	w := newWorld(t)
	img := w.build(t, nil)
	w.export(t, img, "type=image", "app:1", "app:2")
	for _, n := range []string{"app:1", "docker.io/library/app:2", img.Config.Short()} {
		if got, err := w.images.Find(n); err != nil || got.Config != img.Config || !got.Built || len(got.Layers) != 4 {
			t.Errorf("Find(%s) = %+v, %v", n, got, err)
		}
	}
	r, err := w.images.Resolve(t.Context(), "app:1", ocispec.Platform{}, false)
	if err != nil || r.Chain != img.Chain || r.Pinned() != "" {
		t.Errorf("Resolve = %+v, %v", r, err)
	}
	epoch := time.Unix(0, 0)
	nameless := w.build(t, &epoch)
	w.export(t, nameless, "type=image")
	if got, err := w.images.Find(nameless.Config.Hex()); err != nil || got.Name != "" {
		t.Errorf("Find by ID = %+v, %v", got, err)
	}
}

// What is pushed comes back, to another store and to another program.
func TestPushPull(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	host := testkit.Registry(t)
	w := newWorld(t)
	img := w.build(t, nil)
	r := w.export(t, img, "type=registry", host+"/app:1", host+"/app:2")
	if len(w.stdout.Bytes()) != 0 || r.Manifest == nil {
		t.Errorf("result = %+v", r)
	}
	for _, tag := range []string{":1", ":2", "@" + string(r.Manifest.Digest)} {
		got, err := newWorld(t).images.Resolve(t.Context(), host+"/app"+tag, ocispec.Platform{}, false)
		if err != nil || got.Config != img.Config || got.Chain != img.Chain || got.Manifest.String() != string(r.Manifest.Digest) {
			t.Errorf("%s: %+v, %v", tag, got, err)
		}
	}
	ref, _ := name.ParseReference(host+"/app:1", name.Insecure)
	back, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	valid(t, back)
	if d := cmp.Diff(files, short(testkit.ListImage(t, back), true)); d != "" {
		t.Error(d)
	}
	if _, err := w.Export(t.Context(), []*exporter.Image{img}, exporter.Output{Type: exporter.TypeRegistry}); err == nil || !strings.Contains(err.Error(), "-t") {
		t.Errorf("push without a name: %v", err)
	}
}

// A base layer that its registry has is neither downloaded nor sent.
func TestPushLeavesBase(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	var rec testkit.Recorder
	host := testkit.Registry(t, rec.Record)
	ref := testkit.PushImage(t, host, "base:1", baseImage(t))
	w := newWorld(t)
	base, err := w.images.Resolve(t.Context(), ref, ocispec.Platform{}, false)
	if err != nil {
		t.Fatal(err)
	}
	spec := base.Spec
	spec.Config.Cmd = []string{"other"}
	img, err := exporter.Finish(w.Disk, w.Layers, exporter.Build{Spec: spec, Chain: base.Chain, Base: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec.Reset()
	w.export(t, img, "type=registry", host+"/app:1")
	if n := rec.Count("GET /v2/base/blobs/"); n != 0 {
		t.Errorf("%d layers were downloaded", n)
	}
	if n := rec.Count("PATCH"); n != 1 {
		t.Errorf("%d blobs were sent, want the config: %v", n, rec.Requests())
	}
}
