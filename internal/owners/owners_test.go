package owners

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMarks(t *testing.T) {
	for text, m := range map[string]Mark{
		"0:0":                   {},
		"1000:100":              {UID: 1000, GID: 100},
		"4294967294:4294967294": {UID: 1<<32 - 2, GID: 1<<32 - 2},
		"0:6 b 8:0":             {GID: 6, Type: unix.S_IFBLK, Major: 8},
		"0:5 c 5:1":             {GID: 5, Type: unix.S_IFCHR, Major: 5, Minor: 1},
	} {
		if got := m.String(); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
		if got, err := Parse(text); got != m || err != nil {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1:", "a:b", "-1:0", "1:2 c", "1:2 d 1:2", "1:2 c 1", "4294967296:0"} {
		if m, err := Parse(text); err == nil {
			t.Errorf("%q is %+v", text, m)
		}
	}
}

func TestReadWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, m := range []Mark{{}, {UID: 3, GID: 4}, {UID: 5}, {}} {
		if err := Write(name, m); err == unix.ENOTSUP {
			t.Skip("the file system keeps no attributes of users")
		} else if err != nil {
			t.Fatal(err)
		}
		if got := Read(name); got != m {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
	if err := unix.Setxattr(name, Xattr, []byte("nonsense"), 0); err != nil {
		t.Fatal(err)
	}
	if got := Read(name); !got.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestOneID(t *testing.T) {
	for text, want := range map[string]bool{
		"         0       1000          1\n":                                   true,
		"         0          0 4294967295\n":                                   false,
		"         0       1000          1\n         1     100000      65536\n": false,
		"": false,
	} {
		if oneID(text) != want {
			t.Errorf("%q: got %v", text, !want)
		}
	}
}
