package userns

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestReadRanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	text := `# a comment
root:1:1
me:100000:65536
1000:300000:10
mean:400000:10
me:500000
me:x:10
me:600000:0
me:4294967290:100
me:4294967295:1

me:700000:5
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readRanges(file, "me", "1000")
	if err != nil {
		t.Fatal(err)
	}
	want := []extent{{0, 100000, 65536}, {0, 300000, 10}, {0, 700000, 5}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAppendExtents(t *testing.T) {
	own := []extent{{0, 1000, 1}}
	for name, c := range map[string]struct{ ranges, want []extent }{
		"none":       {nil, own},
		"two":        {[]extent{{0, 100, 10}, {0, 50, 5}}, []extent{{0, 1000, 1}, {1, 100, 10}, {11, 50, 5}}},
		"twice":      {[]extent{{0, 100, 10}, {0, 100, 10}}, []extent{{0, 1000, 1}, {1, 100, 10}}},
		"overlap":    {[]extent{{0, 100, 10}, {0, 95, 20}}, []extent{{0, 1000, 1}, {1, 100, 10}, {11, 95, 5}, {16, 110, 5}}},
		"own inside": {[]extent{{0, 998, 5}}, []extent{{0, 1000, 1}, {1, 998, 2}, {3, 1001, 2}}},
		"only own":   {[]extent{{0, 1000, 1}}, own},
		"huge":       {[]extent{{0, 2000, 1<<32 - 2001}}, []extent{{0, 1000, 1}, {1, 2000, 1<<32 - 2001}}},
		"no id left": {
			[]extent{{0, 2000, 1<<32 - 2001}, {0, 0, 1000}, {0, 1001, 999}},
			[]extent{{0, 1000, 1}, {1, 2000, 1<<32 - 2001}, {1<<32 - 2000, 0, 1000}, {1<<32 - 1000, 1001, 999}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := appendExtents(own, c.ranges); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	many := make([]extent, 1000)
	for i := range many {
		many[i] = extent{0, uint32(10000 + 2*i), 1}
	}
	if n := len(appendExtents(own, many)); n != 340 {
		t.Errorf("a map of %d lines; the kernel takes 340", n)
	}
}

func TestNoRange(t *testing.T) {
	_, err := appendRanges([]extent{{0, 1000, 1}}, filepath.Join(t.TempDir(), "none"))
	var host *HostError
	if !errors.As(err, &host) || !strings.HasPrefix(host.Hint, "sudo usermod --add-subuids ") {
		t.Errorf("got %v", err)
	}
}

func TestNoHelper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	var host *HostError
	if _, err := findHelper("newuidmap"); !errors.As(err, &host) || host.Hint != "sudo apt install uidmap" {
		t.Errorf("got %v", err)
	}
	if os.Geteuid() == 0 {
		return // root needs no setuid bit
	}
	file := filepath.Join(dir, "newuidmap")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := findHelper("newuidmap"); !errors.As(err, &host) || host.Hint != "sudo chmod u+s "+file {
		t.Errorf("got %v", err)
	}
}
