package snapshot

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
)

// Who may not make devices, as in a user namespace, can use images that hold some.
func TestDevicesThatCannotBeMadeAreLeftOut(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its capability lost
		done <- func() error {
			if err := dropMknod(); err != nil {
				return err
			}
			x, err := newExtractor(dir)
			if err != nil {
				return err
			}
			defer x.Close()
			for _, e := range []Entry{{Path: "dev/console", Type: Char, Major: 5, Minor: 1}, {Path: "dev/p", Type: Fifo}} {
				if err := x.entry(&e, nil); err != nil {
					return err
				}
			}
			return errors.Join(x.hide(&TOC{Entries: ListOf(Entry{Path: "dev/gone", Type: Whiteout})}), x.finish())
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(dir + "/dev/*")
	if len(names) != 2 {
		t.Errorf("made: %v, want the whiteout and the fifo", names)
	}
}

func dropMknod() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_MKNOD
	return unix.Capset(&header, &data[0])
}

func TestHostileArchives(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(outside)
	cases := map[string][]tar.Header{
		"dot dot":           {{Name: "../../../" + outside, Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"absolute":          {{Name: outside, Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"through a link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: dir}, {Name: "l/victim", Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"link to the host":  {{Name: "h", Typeflag: tar.TypeLink, Linkname: outside}, {Name: "h", Typeflag: tar.TypeReg, Linkname: "pwned"}},
		"link dot dot":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../.." + outside}},
		"link through link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: dir}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/victim"}},
		"whiteout dot dot":  {{Name: ".wh...", Typeflag: tar.TypeReg}},
		"file as parent":    {{Name: "a", Typeflag: tar.TypeReg, Linkname: "x"}, {Name: "a/b", Typeflag: tar.TypeReg, Linkname: "y"}},
	}
	for name, headers := range cases {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			id, err := tarLayer(t, s, digest.Digest{}, headers...)
			if err == nil {
				_, err = s.Trees(t.Context(), id)
			}
			t.Logf("error: %v", err)
			if b, err := os.ReadFile(outside); string(b) != "safe" || err != nil {
				t.Fatalf("the file outside is %q %v", b, err)
			}
			if names, _ := os.ReadDir(dir); len(names) != 1 {
				t.Fatalf("something was made outside: %v", names)
			}
		})
	}
}

// Attributes that overlayfs or we would believe are not for a layer to bring.
func TestHostileAttributes(t *testing.T) {
	records := map[string]string{"SCHILY.xattr.user.kept": "x"}
	for _, name := range []string{
		"user.build.owner", "user.overlay.opaque", "user.overlay.redirect", "user.overlay.metacopy", "user.overlay.origin",
		"trusted.overlay.opaque", "trusted.overlay.redirect", "security.selinux", "system.posix_acl_access",
	} {
		records["SCHILY.xattr."+name] = "y"
	}
	records["SCHILY.xattr.user.build.owner"] = "5:6"
	s := testStore(t)
	id, err := tarLayer(t, s, digest.Digest{},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: records, Format: tar.FormatPAX},
		tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: records, Format: tar.FormatPAX})
	if err != nil {
		t.Fatal(err)
	}
	for e := range topTOC(t, s, id).Entries.All() {
		if len(e.Xattrs) != 1 || e.Xattrs["user.kept"] != "x" || e.Opaque || e.UID != 0 {
			t.Errorf("%+v", e)
		}
	}
	trees, err := s.Trees(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"d", "d/f"} {
		b := make([]byte, 1024)
		n, err := unix.Listxattr(filepath.Join(trees[0], file), b)
		if err != nil || string(b[:n]) != "user.kept\x00" {
			t.Errorf("%s has %q, %v", file, b[:max(n, 0)], err)
		}
	}
}
