package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
)

// newImages returns the images of a new store.
func newImages(t testing.TB) *Images {
	t.Helper()
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient("test")
	return NewImages(disk, snapshot.New(disk, client.Fetch), client)
}

func testImage(name string, platform string, n byte) *Image {
	os, arch, _ := strings.Cut(platform, "/")
	return &Image{Name: name, Config: digest.Of([]byte{n}), Platform: ocispec.Platform{OS: os, Architecture: arch}, Stored: time.Unix(int64(n), 0).UTC()}
}

func TestNormalize(t *testing.T) {
	sum := digest.Of(nil).String()
	for in, want := range map[string]string{
		"app":                   "docker.io/library/app:latest",
		"app:1":                 "docker.io/library/app:1",
		"me/app":                "docker.io/me/app:latest",
		"localhost/app":         "localhost/app:latest",
		"[::1]:5000/a/b:c":      "[::1]:5000/a/b:c",
		"ghcr.io/me/app:1":      "ghcr.io/me/app:1",
		"app@" + sum:            "docker.io/library/app@" + sum,
		"app:1@" + sum:          "docker.io/library/app@" + sum,
		"docker.io/library/x:y": "docker.io/library/x:y",
	} {
		got, err := Normalize(in)
		if err != nil || got.String() != want {
			t.Errorf("Normalize(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "App", "a b", "app:", "app@sha256:12", "app@sha512:" + strings.Repeat("a", 128), "../app", "http://host/app"} {
		if got, err := Normalize(in); err == nil {
			t.Errorf("Normalize(%q) = %v, want an error", in, got)
		}
	}
}

func TestPutGet(t *testing.T) {
	m := newImages(t)
	if _, ok, err := m.Get("app:1", ocispec.Platform{}); ok || err != nil {
		t.Fatalf("Get of nothing = %v, %v", ok, err)
	}
	amd, arm := testImage("docker.io/library/app:1", "linux/amd64", 1), testImage("docker.io/library/app:1", "linux/arm64", 2)
	put(t, m, amd)
	put(t, m, arm)
	get(t, m, "app:1", ocispec.Platform{OS: "linux", Architecture: "amd64"}, amd)
	get(t, m, "app:1", ocispec.Platform{OS: "linux", Architecture: "arm64"}, arm)
	get(t, m, "app:1", ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil)

	built := testImage("docker.io/library/app:1", "linux/riscv64", 3)
	built.Built = true
	put(t, m, built)
	get(t, m, "app:1", ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil)
	get(t, m, "app:1", ocispec.Platform{}, built) // not of this machine, but the only one

	put(t, m, arm) // pulled: the built one is not what the name means any more
	get(t, m, "app:1", ocispec.Platform{}, arm)
}

// A name stands for the images that were built together, one for each platform.
func TestTagPlatforms(t *testing.T) {
	m := newImages(t)
	config := func(arch string) digest.Digest {
		d, err := m.disk.WriteBlob([]byte(`{"os":"linux","architecture":"` + arch + `","rootfs":{"type":"layers","diff_ids":[]}}`))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	arm, s390 := config("arm64"), config("s390x")
	if err := m.Tag(t.Context(), "app:1", arm, s390); err != nil {
		t.Fatal(err)
	}
	for arch, want := range map[string]digest.Digest{"arm64": arm, "s390x": s390} {
		img, ok, err := m.Get("app:1", ocispec.Platform{OS: "linux", Architecture: arch})
		if err != nil || !ok || img.Config != want {
			t.Errorf("%s: %+v, %v", arch, img, err)
			continue
		}
		if all, err := m.Platforms(img); err != nil || len(all) != 2 || all[0].Config != arm || all[1].Config != s390 {
			t.Errorf("%s: built together with %+v, %v", arch, all, err)
		}
	}
	if err := m.Tag(t.Context(), "app:1", s390); err != nil {
		t.Fatal(err)
	}
	get(t, m, "app:1", ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil)
	if err := m.Tag(t.Context(), "", arm, s390); err != nil {
		t.Fatal(err)
	}
	if list, err := m.List(); err != nil || len(list) != 3 {
		t.Errorf("List = %+v, %v", list, err)
	}
}

func put(t testing.TB, m *Images, img *Image) {
	t.Helper()
	if err := m.Put(t.Context(), img); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, m *Images, name string, p ocispec.Platform, want *Image) {
	t.Helper()
	got, ok, err := m.Get(name, p)
	if err != nil || ok != (want != nil) || ok && got.Config != want.Config {
		t.Errorf("Get(%s, %s) = %+v, %v, %v; want %+v", name, p.Architecture, got, ok, err, want)
	}
}

func TestListAndFind(t *testing.T) {
	m := newImages(t)
	for i, name := range []string{"docker.io/library/b:1", "", "docker.io/library/a:2", "ghcr.io/a/c:1"} {
		img := testImage(name, "linux/amd64", byte(i))
		img.Built = true
		put(t, m, img)
	}
	list, err := m.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Familiar())
	}
	if got := strings.Join(names, " "); got != "a:2 b:1 ghcr.io/a/c:1 " {
		t.Errorf("List = %q", got)
	}
	nameless := digest.Of([]byte{1})
	for _, ref := range []string{nameless.String(), nameless.Hex(), nameless.Short(), nameless.Hex()[:5]} {
		if i, err := m.Find(ref); err != nil || i.Config != nameless {
			t.Errorf("Find(%s) = %v, %v", ref, i, err)
		}
	}
	if i, err := m.Find("b:1"); err != nil || i.Familiar() != "b:1" {
		t.Errorf("Find(b:1) = %v, %v", i, err)
	}
	for _, ref := range []string{"nope", "ffffffffffff", "", "sha256:", "B"} {
		if i, err := m.Find(ref); err == nil {
			t.Errorf("Find(%q) = %v", ref, i)
		}
	}
}

func TestFindAmbiguous(t *testing.T) {
	m := newImages(t)
	seen := map[string]bool{}
	for n := byte(0); ; n++ {
		img := testImage("", "linux/amd64", n)
		put(t, m, img)
		first := img.Config.Hex()[:1]
		if seen[first] {
			if _, err := m.Find(first); err == nil || !strings.Contains(err.Error(), "more than one") {
				t.Errorf("Find(%s) = %v", first, err)
			}
			return
		}
		seen[first] = true
	}
}

// A record that was cut, or put under another name, is a miss.
func TestDamagedRecord(t *testing.T) {
	m := newImages(t)
	img := testImage("docker.io/library/a:1", "linux/amd64", 1)
	put(t, m, img)
	file := m.disk.Path(recordFile(img.key()))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"", string(whole[:len(whole)/2]), "null", "[null]", "[{}]", `{"a":1}`, strings.Replace(string(whole), "a:1", "b:1", 1)} {
		if err := os.WriteFile(file, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		get(t, m, "a:1", ocispec.Platform{}, nil)
		if list, err := m.List(); err != nil || len(list) != 0 {
			t.Errorf("List with %q = %v, %v", b, list, err)
		}
	}
	put(t, m, img)
	get(t, m, "a:1", ocispec.Platform{}, img)
	entries, _ := os.ReadDir(filepath.Dir(file))
	if len(entries) != 1 {
		t.Errorf("%d files, want 1", len(entries))
	}
}

func TestConcurrentPuts(t *testing.T) {
	m := newImages(t)
	done := make(chan error)
	arches := []string{"amd64", "arm64", "s390x", "riscv64", "ppc64le", "386"}
	for i, a := range arches {
		go func() { done <- m.Put(context.Background(), testImage("docker.io/library/a:1", "linux/"+a, byte(i))) }()
	}
	for range arches {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if list, err := m.List(); err != nil || len(list) != len(arches) {
		t.Errorf("List = %d images, %v; want %d", len(list), err, len(arches))
	}
}

// Whoever removes a name takes nothing from an image that has got the name meanwhile, nor from other names.
func TestRemove(t *testing.T) {
	m, ctx := newImages(t), t.Context()
	put := func(name string, n byte) *Image {
		img := testImage(name, "linux/amd64", n)
		img.Built = true
		if err := m.Put(ctx, img); err != nil {
			t.Fatal(err)
		}
		return img
	}
	old := put("docker.io/library/app:1", 1)
	put("docker.io/library/app:2", 1)
	put("", 1)
	id := old.Config.Hex()[:12]
	if r, err := m.Remove(ctx, id, false); err == nil {
		t.Errorf("an image with two names: %+v", r)
	}
	put("docker.io/library/app:1", 2)
	if err := m.drop(ctx, old, []*Image{old}); err != nil {
		t.Fatal(err)
	}
	if img, ok, err := m.Get("app:1", ocispec.Platform{}); !ok || img.Config == old.Config || err != nil {
		t.Errorf("the new app:1 is %+v, %v", img, err)
	}
	r, err := m.Remove(ctx, id, false)
	if err != nil || len(r.Names) != 1 || r.Names[0] != "app:2" || len(r.IDs) != 1 || r.IDs[0] != old.Config {
		t.Errorf("%+v, %v", r, err)
	}
	if list, err := m.List(); len(list) != 1 || err != nil {
		t.Errorf("%d images are left, %v", len(list), err)
	}
	if _, err := m.Remove(ctx, "app:2", true); !errors.Is(err, ErrNotInStore) {
		t.Errorf("what is not there: %v", err)
	}
}
