package main

import (
	"strings"
	"testing"

	"github.com/containerd/platforms"
)

// What --platform takes is normal: written down and read again it is the same, and it is one name in a folder.
func FuzzPlatform(f *testing.F) {
	for _, text := range []string{"linux/amd64", "local", "linux/arm/v7", "linux/arm64/v8", "amd64", "windows(10.0.1)/amd64", "linux/", "../..", "linux/amd64/v1", "LINUX/X86_64"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := &plan{buildOptions: &buildOptions{platforms: []string{text, text}}}
		if err := planPlatforms(p); err != nil {
			return
		}
		if len(p.platforms) != 1 {
			t.Fatalf("%q is %d platforms", text, len(p.platforms))
		}
		name := platforms.FormatAll(p.platforms[0])
		again, err := platforms.Parse(name)
		if err != nil || platforms.FormatAll(platforms.Normalize(again)) != name {
			t.Errorf("%q is %s, and that is %v: %v", text, name, again, err)
		}
		if strings.Count(name, "/") > 2 || strings.ContainsAny(name, "\x00\n") {
			t.Errorf("%q is called %q", text, name)
		}
	})
}
