package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/seed0570efb0/build/executor/cdi"
)

// A folder stands for the devices in it, however it is written.
func TestDevicesOfFolders(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev", link); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]cdi.Node{
		"/dev":                {Source: "/dev/zero", Target: "/dev/zero"},
		"/dev/":               {Source: "/dev/zero", Target: "/dev/zero"},
		"/dev:/more":          {Source: "/dev/zero", Target: "/more/zero"},
		"/dev/:/more":         {Source: "/dev/zero", Target: "/more/zero"},
		"/dev:/more/:rw":      {Source: "/dev/zero", Target: "/more/zero"},
		link + ":/dev/linked": {Source: link + "/zero", Target: "/dev/linked/zero"},
	} {
		list, err := parseNodes(text)
		if err != nil || !slices.Contains(list, want) {
			t.Errorf("%s: %v, without %v: %v", text, list, want, err)
		}
		if slices.ContainsFunc(list, func(n cdi.Node) bool { return filepath.Base(filepath.Dir(n.Source)) == "pts" }) {
			t.Errorf("%s: %v, with terminals of the host", text, list)
		}
	}
}

// Devices are looked for where the options say, or else where descriptions usually are.
func TestFoldersOfDevices(t *testing.T) {
	usual, other := t.TempDir(), t.TempDir()
	for dir, name := range map[string]string{usual: "usual", other: "other"} {
		spec := `{"cdiVersion":"0.6.0","kind":"a.example/d","devices":[{"name":"` + name + `","containerEdits":{"env":["X=1"]}}]}`
		if err := os.WriteFile(filepath.Join(dir, "d.json"), []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	defer func(f []string) { cdi.Folders = f }(cdi.Folders)
	cdi.Folders = []string{usual}
	for want, o := range map[string]deviceOptions{"usual": {}, "other": {folders: []string{other}}} {
		if got := o.registry().Find("a.example/d=*"); !slices.Equal(got, []string{"a.example/d=" + want}) {
			t.Errorf("%q has %q", o.folders, got)
		}
	}
}
