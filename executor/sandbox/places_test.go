package sandbox_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// Paths of the plan may lead through links up to the root of the host and down again.
func TestPathsOverTheRootOfTheHost(t *testing.T) {
	spec := newSpec(t, "cat", "/shown/word")
	dir := filepath.Dir(spec.Root.Target)
	if err := os.Mkdir(filepath.Join(dir, "shown"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "shown", "word"), "here\n")
	link := filepath.Join(t.TempDir(), "link")
	up := strings.Repeat("../", strings.Count(link, "/")-1)
	if err := os.Symlink(filepath.Join(up, dir), link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*string{&spec.Root.Lower[0], &spec.Root.Upper, &spec.Root.Work, &spec.Root.Target} {
		*p = filepath.Join(link, strings.TrimPrefix(*p, dir))
	}
	spec.Mounts = append(spec.Mounts, bind(filepath.Join(link, "shown"), "/shown", false))
	expect(t, spec, "here\n")
}

// A folder that holds all of the host shows the host, and nothing of the sandbox.
func TestRootOfTheHostIsShown(t *testing.T) {
	spec := newSpec(t)
	word := filepath.Join(filepath.Dir(spec.Root.Target), "word")
	write(t, word, "here\n")
	spec.Args = []string{"sh", "-c", `cat "$0"; ls "$1"`, "/host" + word, "/host" + spec.Root.Target}
	spec.Mounts = append(spec.Mounts, bind("/", "/host", false))
	expect(t, spec, "here\n")
}

// What is mounted on the host while a process runs does not show in the folders that it was given.
func TestLaterMountsDoNotShow(t *testing.T) {
	spec := sh(t, "read line; ls /shown/below")
	shown := filepath.Join(filepath.Dir(spec.Root.Target), "shown")
	below := filepath.Join(shown, "below")
	if err := os.Mkdir(shown, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", shown, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(shown, unix.MNT_DETACH)
	if err := unix.Mount("", shown, "", unix.MS_SHARED, ""); err != nil { // as systemd makes all of them
		t.Fatal(err)
	}
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, bind(shown, "/shown", false))
	in, line := io.Pipe()
	var out bytes.Buffer
	p, err := sandbox.Start(t.Context(), spec, sandbox.Stdio{In: in, Out: &out, Err: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", below, "tmpfs", 0, ""); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(below, "secret"), "")
	line.Write([]byte("\n"))
	line.Close()
	if status, err := p.Wait(); err != nil || status.Code != 0 || out.Len() > 0 {
		t.Errorf("status %+v, error %v, output %q", status, err, out.String())
	}
}
