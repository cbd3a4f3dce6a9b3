package build_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/seed0570efb0/build/"

// allowed says which packages of this module a package may import, besides internal/digest, which is open to
// all. It is the package map of docs/architecture.md; an arrow that is not here is a mistake in the design.
var allowed = map[string][]string{
	"cmd/build": {"cache", "collect", "executor", "executor/cdi", "executor/sandbox", "exporter", "history", "internal/progress", "internal/userns",
		"llb", "llb/lower", "parser", "snapshot", "solver", "source"},
	"parser":                   {},
	"llb":                      {},
	"llb/lower":                {"internal/reference", "llb", "parser"},
	"solver":                   {"cache", "llb"},
	"cache":                    {"internal/sparse"},
	"executor":                 {"cache", "executor/cdi", "executor/sandbox", "executor/sandbox/seccomp", "executor/sandbox/uplink", "internal/owners", "llb", "snapshot"},
	"executor/cdi":             {},
	"executor/sandbox":         {"executor/sandbox/oneuid", "executor/sandbox/seccomp", "executor/sandbox/uplink", "internal/owners"},
	"executor/sandbox/oneuid":  {"executor/sandbox/seccomp", "internal/owners"},
	"executor/sandbox/seccomp": {},
	"executor/sandbox/uplink":  {},
	"history":                  {"cache", "llb", "snapshot", "solver"},
	"snapshot":                 {"cache", "internal/owners", "internal/safefs", "internal/sparse"},
	"source":                   {"cache", "internal/reference", "internal/safefs", "internal/sparse", "llb", "snapshot"},
	"collect":                  {"cache", "snapshot", "source"},
	"exporter":                 {"cache", "internal/reference", "internal/safefs", "snapshot", "source"},
	"internal/digest":          {},
	"internal/owners":          {},
	"internal/reference":       {},
	"internal/safefs":          {},
	"internal/sparse":          {},
	"internal/userns":          {},
	"internal/progress":        {"llb"},
	"internal/testkit":         {},
	"internal/conformance":     {},
}

func TestImportDirections(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue // the module's root holds tests only
		}
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s is not on the map", name)
		}
		for _, imp := range p.Imports {
			dep, ours := strings.CutPrefix(imp, module)
			if ours && dep != "internal/digest" && !slices.Contains(may, dep) {
				t.Errorf("%s may not import %s", name, dep)
			}
		}
	}
}
