package conformance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A layer that was put together from the chunks of another one is the file that it says, to all who read it.
func TestChunkedLayer(t *testing.T) {
	need(t, "gzip", "skopeo", "umoci", "podman")
	user, dir := accounts(t)[0], tempDir(t)
	context := tempDir(t)
	var text []byte
	for i := range 500_000 {
		text = fmt.Appendf(text, "line %d of many\n", i*7919)
	}
	write(t, filepath.Join(context, "Dockerfile"), "FROM scratch\nCOPY file /\nCMD [\"none\"]\n")
	write(t, filepath.Join(context, "file"), string(text))
	first, archive := filepath.Join(dir, "first.tar"), filepath.Join(dir, "oci.tar")
	user.build(t, "-o", "type=oci,dest="+first, context)
	text = append(bytes.Replace(text, []byte("line 7919000 of many"), []byte("another line"), 1), "the end"...)
	write(t, filepath.Join(context, "file"), string(text))
	user.build(t, "-t", "chunked", "-o", "type=oci,dest="+archive, context)

	img := openArchive(t, archive)
	layer, err := layersOf(t, img)[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	layout := tempDir(t)
	output(t, exec.Command("tar", "-C", layout, "-xf", archive))
	blob := filepath.Join(layout, "blobs/sha256", layer.Hex)
	if got := []byte(output(t, exec.Command("sh", "-c", `gzip -dc "$0" | tar -xO file`, blob))); !bytes.Equal(got, text) {
		t.Errorf("gzip and tar give %d bytes of %d, or others", len(got), len(text))
	}
	want := testkit.ListImage(t, img) // read by Go's libraries, and compared with the diff IDs
	raw := filepath.Join(tempDir(t), "raw")
	output(t, exec.Command("skopeo", "--insecure-policy", "copy", "oci-archive:"+archive, "docker-archive:"+raw+":x:1"))
	if os.Geteuid() == 0 {
		unpacked := filepath.Join(tempDir(t), "root")
		output(t, exec.Command("umoci", "raw", "unpack", "--image", layout+":latest", unpacked))
		compare(t, "umoci", testkit.ListDir(t, unpacked), want)
	}
	storage := newContainers(t)
	output(t, storage.podman("load", "-q", "-i", archive))
	saved := filepath.Join(dir, "saved.tar")
	output(t, storage.podman("save", "-q", "--format", "oci-archive", "-o", saved, "chunked"))
	compare(t, "podman", testkit.ListImage(t, openArchive(t, saved)), want)
}
