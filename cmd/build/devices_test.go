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
