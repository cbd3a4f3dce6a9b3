package source

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

// Resolving downloads no layer; a second time, and in another process, it asks nobody; reading a file downloads.
func TestResolve(t *testing.T) {
	testConfig(t)
	var rec testkit.Recorder
	host := testkit.Registry(t, rec.Record)
	img := smallImage(t)
	ref := testkit.PushImage(t, host, "app:1", img)
	rec.Reset()

	m := newImages(t)
	r, err := m.Resolve(t.Context(), ref, amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.ConfigName()
	if r.Config.String() != want.String() || len(r.Layers) != 2 || r.Built || r.Spec.Config.Env[0] != "A=b" || r.Chain.IsZero() {
		t.Errorf("Resolve = %+v", r)
	}
	manifest, _ := img.Digest()
	if want := host + "/app:1@" + manifest.String(); r.Pinned() != want {
		t.Errorf("Pinned = %s, want %s", r.Pinned(), want)
	}
	if n := rec.Count("/blobs/"); n != 1 {
		t.Errorf("%d blobs were asked for, want the config: %v", n, rec.Requests())
	}

	rec.Reset()
	again := NewImages(m.disk, m.layers, m.client)
	if r2, err := again.Resolve(t.Context(), ref, amd64, false); err != nil || r2.Chain != r.Chain || r2.Manifest != r.Manifest {
		t.Errorf("second Resolve = %+v, %v", r2, err)
	}
	if n := rec.Count(""); n != 0 {
		t.Errorf("the second time asked the registry: %v", rec.Requests())
	}
	if _, err := again.Resolve(t.Context(), ref, amd64, true); err != nil || rec.Count("GET /v2/app/manifests/1") != 1 {
		t.Errorf("with pull: %v, %v", err, rec.Requests())
	}

	view, err := m.layers.View(t.Context(), r.Chain)
	if err != nil {
		t.Fatal(err)
	}
	b, ok, err := snapshot.ReadFile(view, "/etc/other", 100)
	if string(b) != "two\n" || !ok || err != nil {
		t.Errorf("etc/other = %q, %v, %v", b, ok, err)
	}
}

func TestResolveDigest(t *testing.T) {
	host, img := pushed(t)
	d, _ := img.Digest()
	m := newImages(t)
	for _, ref := range []string{host + "/app@" + d.String(), host + "/app:nope@" + d.String()} {
		if r, err := m.Resolve(t.Context(), ref, amd64, false); err != nil || r.Manifest.String() != d.String() || !strings.HasSuffix(r.Pinned(), "/app@"+d.String()) {
			t.Errorf("Resolve(%s) = %+v, %v", ref, r, err)
		}
	}
	bad := host + "/app@" + digest.Of([]byte("x")).String()
	if _, err := m.Resolve(t.Context(), bad, amd64, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestResolveIndex(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	amd := smallImage(t)
	arm := onPlatform(t, amd, "linux", "arm64")
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.DockerManifestList),
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: smallImage(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	ref, _ := name.ParseReference(host+"/multi:1", name.Insecure)
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	m := newImages(t)
	for arch, img := range map[string]v1.Image{"amd64": amd, "arm64": arm} {
		want, _ := img.Digest()
		r, err := m.Resolve(t.Context(), ref.Name(), ocispec.Platform{OS: "linux", Architecture: arch}, false)
		if err != nil || r.Manifest.String() != want.String() {
			t.Errorf("%s: %+v, %v; want %s", arch, r, err, want)
		}
	}
	_, err := m.Resolve(t.Context(), ref.Name(), ocispec.Platform{OS: "linux", Architecture: "s390x"}, false)
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "no match for platform in manifest: want linux/s390x, there is linux/amd64, linux/arm64") {
		t.Errorf("s390x: %v", err)
	}
}

// What is alone under its name is taken, now and from the store.
func TestOnlyForAnotherPlatform(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	ref := testkit.PushImage(t, host, "app:1", onPlatform(t, smallImage(t), "linux", "riscv64"))
	m := newImages(t)
	for _, want := range []string{"from the registry", "from the store"} {
		r, err := m.Resolve(t.Context(), ref, amd64, false)
		if err != nil || r.Spec.Architecture != "riscv64" {
			t.Fatalf("%s: %+v, %v", want, r, err)
		}
		if _, ok, err := m.Get(ref, amd64); !ok || err != nil {
			t.Errorf("%s: it is not in the store: %v", want, err)
		}
	}
}

// Docker's media types are another name for the same bytes.
func TestDockerTypes(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	img, err := random.Image(200, 2) // docker types
	if err != nil {
		t.Fatal(err)
	}
	img = onPlatform(t, img, "linux", "amd64")
	m := newImages(t)
	r, err := m.Resolve(t.Context(), testkit.PushImage(t, host, "app:1", img), amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range r.Layers {
		blobs, err := m.layers.Blobs(l)
		if err != nil || len(blobs) != 1 || blobs[0].MediaType != snapshot.MediaTypeTarGzip || blobs[0].Origins[0] != host+"/app" {
			t.Errorf("blobs = %+v, %v", blobs, err)
		}
	}
}

// serve answers with one manifest, whatever is asked for.
func serve(t *testing.T, mediaType, body string) (ref string) {
	host := testkit.Registry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", mediaType)
			io.WriteString(w, body)
		})
	})
	return host + "/app:1"
}

func TestBadManifests(t *testing.T) {
	testConfig(t)
	const oci = "application/vnd.oci.image.manifest.v1+json"
	sum := digest.Of(nil).String()
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + sum + `","size":2}`
	for _, c := range []struct{ mediaType, body, want string }{
		{"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		{oci, `{`, "manifest: unexpected end of JSON"},
		{oci, `null`, "unsupported media type"},
		{"text/html", `{"schemaVersion":2}`, `unsupported media type "text/html"`},
		{oci, `{"schemaVersion":2,` + config + `,"manifests":[{"digest":"` + sum + `"}]}`, "an index as well"},
		{oci, `{"schemaVersion":2,"manifests":[{"digest":"` + sum + `"}]}`, "no manifest of type"},
		{oci, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}`, "not a container image"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, "sha256:", "sha512:", 1) + `}`, "only sha256"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, `"size":2`, `"size":99999999999`, 1) + `}`, "more than the"},
		{oci, `{"schemaVersion":2,` + strings.Replace(config, `"size":2`, `"size":-1`, 1) + `}`, "more than the"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[]}`, "there is none"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[{"digest":"../../x"}]}`, "only sha256"},
		{"application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[{"digest":"` + sum + `"}]}`, "the bytes that came have the digest"},
		{oci, strings.Repeat(" ", maxManifest+1), "more than"},
	} {
		m := newImages(t)
		_, err := m.Resolve(t.Context(), serve(t, c.mediaType, c.body), amd64, false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: error = %v, want %q", c.body, err, c.want)
		}
	}
}

// The layer counts of manifest and config differ.
func TestLayerCount(t *testing.T) {
	host, img := pushed(t)
	man, _ := img.Manifest()
	man = man.DeepCopy()
	man.Layers = man.Layers[:1]
	raw, _ := json.Marshal(man)
	r, _ := name.ParseReference(host+"/app:2", name.Insecure)
	if err := remote.Put(r.(name.Tag), rawManifest(raw)); err != nil {
		t.Fatal(err)
	}
	_, err := newImages(t).Resolve(t.Context(), r.Name(), amd64, false)
	if err == nil || !strings.Contains(err.Error(), "1 layers, its config 2") {
		t.Errorf("error = %v", err)
	}
}

type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error) { return m, nil }

func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// What the store has lost is asked for again; what was built here cannot be.
func TestLost(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	ref := testkit.PushImage(t, host, "app:1", smallImage(t))
	m := newImages(t)
	r, err := m.Resolve(t.Context(), ref, amd64, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.disk.RemoveBlob(r.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Resolve(t.Context(), ref, amd64, false); err != nil {
		t.Errorf("pulled: %v", err)
	}
	if err := m.Tag(t.Context(), host+"/mine:1", r.Config); err != nil {
		t.Fatal(err)
	}
	if r, err := m.Resolve(t.Context(), host+"/mine:1", amd64, false); err != nil || !r.Built {
		t.Fatalf("built: %+v, %v", r, err)
	}
	if err := m.disk.RemoveBlob(r.Config); err != nil {
		t.Fatal(err)
	}
	_, err = m.Resolve(t.Context(), host+"/mine:1", amd64, false)
	wantError(t, err, ErrNotFound, "mine:1", "build it again")
}

// An image of the store for another platform is named when no registry has a better one.
func TestBuiltForAnotherPlatform(t *testing.T) {
	testConfig(t)
	host := testkit.Registry(t)
	m := newImages(t)
	img := testImage(host+"/mine:1", "linux/s390x", 1)
	img.Built = true
	put(t, m, img)
	_, err := m.Resolve(t.Context(), host+"/mine:1", amd64, false)
	wantError(t, err, ErrPlatform, "there is linux/s390x", "--platform")
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"arm"}}]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[null]}`), "application/vnd.oci.image.manifest.v1+json")
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		doc, isIndex, err := parseManifest(manifest{raw, mediaType})
		if err != nil {
			return
		}
		if isIndex {
			_, _ = pickPlatform(doc.Manifests, amd64)
		}
		for _, l := range doc.Layers {
			_, _ = blobOf(l, layout{"/x"})
		}
	})
}
