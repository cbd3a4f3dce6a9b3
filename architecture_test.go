package build_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
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
	"internal/testkit":         {"internal/userns"},
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

// unlinked are packages that are easily brought along and must not be part of the program: each start would pay for them.
var unlinked = map[string]string{
	"github.com/distribution/reference": "compiles its expressions at start, 0.9 ms: internal/reference reads names (decision 20)",
	"google.golang.org/grpc":            "comes with most of buildkit, and buildkit is used for what Dockerfiles mean only",
	"runtime/pprof":                     "keeps the sampling of memory in the program: without it the linker leaves that out",
	"testing":                           "is for tests",
}

func TestWhatIsNotLinked(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/build").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.SplitSeq(string(out), "\n") {
		if why := unlinked[dep]; why != "" {
			t.Errorf("cmd/build links %s, which %s", dep, why)
		}
	}
}

// What a package makes for its variables is made at every start of the program, a cached build's too, and expressions cost most of it.
func TestNoExpressionIsCompiledAtStart(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.VAR {
				ast.Inspect(g, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "MustCompile" {
						t.Errorf("%s: compile it when it is first used, with sync.OnceValue", fset.Position(s.Pos()))
					}
					_, function := n.(*ast.FuncLit)
					return !function
				})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
