package safefs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A path may be longer than the kernel takes at once.
func TestLongPaths(t *testing.T) {
	dir := t.TempDir()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := "."
	for range 30 {
		p = strings.TrimPrefix(p+"/"+strings.Repeat("x", 255), "./")
		if err := r.At("mkdir", p, func(d int, name string) error { return unix.Mkdirat(d, name, 0o755) }); err != nil {
			t.Fatal(err)
		}
	}
	err = r.At("create", p+"/f", func(d int, name string) error {
		fd, err := unix.Openat(d, name, unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err == nil {
			unix.Write(fd, []byte("deep"))
			unix.Close(fd)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.OpenFile(p + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "deep" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if _, err := r.OpenFile(strings.Repeat("y", 5000)); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a name of 5000 bytes: %v", err)
	}
}

// No part of a long path leads through a link.
func TestLongPathsFollowNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, p := range []string{"l/etc/passwd", "../x", strings.Repeat("./", 3000) + "l/etc/passwd", strings.Repeat("./", 3000) + "../x"} {
		if f, err := r.OpenFile(p); err == nil {
			f.Close()
			t.Errorf("%.20s... was opened", p)
		}
	}
}
