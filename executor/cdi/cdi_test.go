package cdi_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/executor/cdi"
)

// registry returns the registry of folders with a file each.
func registry(t *testing.T, files ...string) *cdi.Registry {
	t.Helper()
	var folders []string
	for _, text := range files {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "devices.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		folders = append(folders, dir)
	}
	return cdi.New(folders)
}

const two = `
cdiVersion: "0.7.0"
kind: vendor.example/gpu
annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
containerEdits: {env: [ALL=1], additionalGids: [0, 44]}
devices:
- name: a
  annotations: {org.mobyproject.buildkit.device.class: fast}
  containerEdits:
    env: [A=1]
    deviceNodes: [{path: /dev/a, hostPath: /dev/null}, {path: /dev/zero}]
- name: b
  annotations: {org.mobyproject.buildkit.device.autoallow: "false"}
  containerEdits:
    mounts: [{hostPath: /usr/lib, containerPath: /opt/lib, options: [ro, nosuid, nodev, noexec, rbind]}]
`

func TestFind(t *testing.T) {
	r := registry(t, two)
	for name, want := range map[string][]string{
		"vendor.example/gpu=a":   {"vendor.example/gpu=a"},
		"vendor.example/gpu":     {"vendor.example/gpu=a"},
		"vendor.example/gpu=*":   {"vendor.example/gpu=a", "vendor.example/gpu=b"},
		"vendor.example/gpu=c":   nil,
		"vendor.example/gp=*":    nil,
		"vendor.example/other":   nil,
		"fast":                   {"vendor.example/gpu=a"},
		"slow":                   nil,
		"":                       nil,
		"gpu=a":                  nil,
		"vendor.example/gpu=a=b": nil,
	} {
		if diff := cmp.Diff(strings.Join(want, " "), strings.Join(r.Find(name), " ")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if !r.AutoAllowed("vendor.example/gpu=a") || r.AutoAllowed("vendor.example/gpu=b") {
		t.Error("the annotation of a device does not win over that of its file")
	}
}

// What is said for all devices of a file is done once, before what is said of the first of them.
func TestEdits(t *testing.T) {
	got, err := registry(t, two).Edits([]string{"vendor.example/gpu=a", "vendor.example/gpu=b", "vendor.example/gpu=a"})
	if err != nil {
		t.Fatal(err)
	}
	want := &cdi.Edits{
		Env:    []string{"ALL=1", "A=1"},
		Nodes:  []cdi.Node{{Source: "/dev/null", Target: "/dev/a"}, {Source: "/dev/zero", Target: "/dev/zero"}},
		Mounts: []cdi.Mount{{Source: "/usr/lib", Target: "/opt/lib", ReadOnly: true, NoExec: true, NoSUID: true}},
		Groups: []uint32{44},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The device of a later folder wins; two of one name in one folder are none.
func TestPrecedence(t *testing.T) {
	one := func(value string) string {
		return "{cdiVersion: 0.6.0, kind: v.example/c, devices: [{name: d, containerEdits: {env: [V=" + value + "]}}]}"
	}
	got, err := registry(t, one("first"), one("second")).Edits([]string{"v.example/c=d"})
	if err != nil || len(got.Env) != 1 || got.Env[0] != "V=second" {
		t.Errorf("got %+v, %v", got, err)
	}
	dir := t.TempDir()
	for _, name := range []string{"x.json", "y.yaml"} {
		text := `{"cdiVersion": "0.6.0", "kind": "v.example/c", "devices": [{"name": "d", "containerEdits": {"env": ["V=1"]}}]}`
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var missing *cdi.NotFoundError
	if _, err := cdi.New([]string{dir}).Edits([]string{"v.example/c=d"}); !errors.As(err, &missing) || !strings.Contains(missing.Hint, "conflicting device") {
		t.Errorf("got %v", err)
	}
}

func TestRefused(t *testing.T) {
	for edits, want := range map[string]string{
		"hooks: [{hookName: prestart, path: /bin/h}]":                                     "the prestart hook /bin/h is not run",
		"netDevices: [{hostInterfaceName: eth1, name: eth0}]":                             "the network device eth1 cannot be given away",
		"intelRdt: {closID: x}":                                                           "Intel RDT",
		"deviceNodes: [{path: /dev/x, permissions: r}]":                                   `permissions "r" of /dev/x cannot be enforced`,
		"deviceNodes: [{path: /dev/x, permissions: none}]":                                `permissions "none" of /dev/x cannot be enforced`,
		"deviceNodes: [{path: dev/x}]":                                                    `path "dev/x" is not absolute`,
		"deviceNodes: [{path: //, hostPath: /dev/null}]":                                  "nothing can take the place of /",
		"mounts: [{hostPath: /a, containerPath: /b, type: tmpfs}]":                        "the mount of type tmpfs on /b is not supported",
		"mounts: [{hostPath: /a, containerPath: /b, options: [ro, mode=1]}]":              "the option mode=1 of the mount on /b is not supported",
		"mounts: [{hostPath: a, containerPath: /b}]":                                      `path "a" is not absolute`,
		"{deviceNodes: [{path: /dev/x}], hooks: [{hookName: createContainer, path: /h}]}": "the createContainer hook /h",
	} {
		if !strings.HasPrefix(edits, "{") {
			edits = "{" + edits + "}"
		}
		r := registry(t, "{cdiVersion: 1.1.0, kind: v.example/c, devices: [{name: d, containerEdits: "+edits+"}]}")
		_, err := r.Edits([]string{"v.example/c=d"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "device v.example/c=d: /") {
			t.Errorf("%s: got %v, want %s", edits, err, want)
		}
	}
}
