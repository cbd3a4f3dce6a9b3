package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/testkit"
)

// openArchive returns the only image of an archive of an OCI layout, and checks all of it.
func openArchive(t *testing.T, archive string) v1.Image {
	t.Helper()
	dir := tempDir(t)
	output(t, exec.Command("tar", "-C", dir, "-xf", archive))
	return openLayout(t, dir)
}

// openLayout returns the image of a layout, which must be valid.
func openLayout(t *testing.T, dir string) v1.Image {
	t.Helper()
	img, _ := testkit.OpenLayout(t, dir)
	d := digestOf(t, img)
	check := func(img v1.Image) error { return validate.Image(img) }
	if _, ok := validated.Load(d); ok {
		check = checkBlobs
	}
	if err := check(img); err != nil {
		t.Errorf("image of %s: %v", dir, err)
	} else {
		validated.Store(d, true)
	}
	return img
}

// validated has the digests of images that were read through and through. Of a copy it is enough that its blobs have their digests:
// with the race detector, inflating the same layers again and again was most of the time of these tests.
var validated sync.Map

// checkBlobs compares the blobs of an image with their digests.
func checkBlobs(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if err := checkDigest(bytes.NewReader(config), m.Config.Digest); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		err = checkDigest(r, m.Layers[i].Digest)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func checkDigest(r io.Reader, want v1.Hash) error {
	got, _, err := v1.SHA256(r)
	if err == nil && got != want {
		err = fmt.Errorf("blob %s has the digest %s", want, got)
	}
	return err
}

// A fact is something that can be said of an image in a word and a value.
type fact struct{ key, value string }

func (f fact) String() string { return f.key + " " + f.value }

// configFacts returns what the config of an image says.
func configFacts(t *testing.T, img v1.Image) []fact {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := file.Config
	var out []fact
	add := func(key, value string) { out = append(out, fact{key, value}) }
	add("Platform", file.Platform().String())
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		add("Env "+k, fmt.Sprintf("%q", v))
	}
	words := []struct {
		key  string
		list []string
	}{{"Entrypoint", c.Entrypoint}, {"Cmd", c.Cmd}, {"Shell", c.Shell}, {"OnBuild", c.OnBuild}}
	for _, w := range words {
		if len(w.list) > 0 {
			add(w.key, asJSON(t, w.list))
		}
	}
	for _, s := range []fact{{"User", c.User}, {"WorkingDir", c.WorkingDir}, {"StopSignal", c.StopSignal}, {"Author", file.Author}} {
		if s.value != "" {
			add(s.key, s.value)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		add("Label "+k, fmt.Sprintf("%q", c.Labels[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		add("ExposedPort", k)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Volumes)) {
		add("Volume", k)
	}
	if check := healthcheck(t, img); check != nil {
		add("Healthcheck", asJSON(t, check))
	}
	return out
}

// healthcheck returns the check of an image with all its fields, of which v1 does not know every one.
func healthcheck(t *testing.T, img v1.Image) *dockerspec.HealthcheckConfig {
	t.Helper()
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var file dockerspec.DockerOCIImage
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	return file.Config.Healthcheck
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// historyLines returns a line for each step that the image remembers, and checks that each that is not
// empty has a layer.
func historyLines(t *testing.T, img v1.Image) []string {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	layers := 0
	for _, h := range file.History {
		word := "empty"
		if !h.EmptyLayer {
			word = "layer"
			layers++
		}
		out = append(out, word+" "+h.CreatedBy)
	}
	if layers != len(file.RootFS.DiffIDs) {
		t.Errorf("history speaks of %d layers, the image has %d", layers, len(file.RootFS.DiffIDs))
	}
	return out
}

// treeChanges returns the listing of an image without the lines that its base has too. What is gone from the
// base is said when the image has anything of it.
func treeChanges(t *testing.T, img v1.Image) []string {
	t.Helper()
	old := map[string]bool{}
	for line := range strings.Lines(testkit.ShowImage(t, testkit.Busybox(t))) {
		old[line] = true
	}
	var out []string
	paths, based := map[string]bool{}, false
	for line := range strings.Lines(testkit.ShowImage(t, img)) {
		paths[pathOf(line)] = true
		if old[line] {
			based = true
		} else {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(old)) {
		if p := pathOf(line); based && !paths[p] {
			out = append(out, "gone "+p)
		}
	}
	return out
}

// pathOf returns the path in a line of a listing: what follows mode, owner and type. It has no blanks in any case.
func pathOf(line string) string { return strings.Fields(line)[3] }

// describe returns the text of expect.txt for an image.
func describe(t *testing.T, img v1.Image) string {
	t.Helper()
	var b strings.Builder
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "%s\n  %s\n", title, strings.Join(lines, "\n  "))
		}
	}
	var config []string
	for _, f := range configFacts(t, img) {
		config = append(config, f.String())
	}
	section("config", config)
	section("history", historyLines(t, img))
	section("files", treeChanges(t, img))
	return b.String()
}

func TestCheckBlobs(t *testing.T) {
	dir := testkit.OCILayout(t, testkit.Busybox(t), "latest")
	img, _ := testkit.OpenLayout(t, dir)
	if err := checkBlobs(img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs", d.Algorithm, d.Hex)
	if err := os.Truncate(blob, 100); err != nil {
		t.Fatal(err)
	}
	if err := checkBlobs(img); err == nil {
		t.Error("a layer that is cut off is none")
	}
}
