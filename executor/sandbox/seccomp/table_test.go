package seccomp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Every column is what golang.org/x/sys/unix says, and the lines are in order.
func TestTable(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, arch := range []string{"amd64", "386", "arm64", "arm"} {
		file := filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+arch+".go")
		want := constants(t, file)
		if arch == "arm" { // its private calls, of asm/unistd.h, have no constants there
			maps.Copy(want, table{"breakpoint": 0xf0001, "cacheflush": 0xf0002, "usr26": 0xf0003, "usr32": 0xf0004, "set_tls": 0xf0005})
		}
		if diff := cmp.Diff(want, columns(1 + i)[0]); diff != "" {
			t.Errorf("%s, package unix (-) and the table (+):\n%s", arch, diff)
		}
	}
	var names []string
	for line := range strings.Lines(syscalls) {
		if name := strings.Fields(line)[0]; name != "#" {
			names = append(names, name)
		}
	}
	if ordered := slices.Compact(slices.Sorted(slices.Values(names))); !slices.Equal(names, ordered) {
		t.Error("the names are not in order, or one is there twice")
	}
}

// constants returns the SYS_ constants of a Go file, as names of calls.
func constants(t *testing.T, file string) table {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	calls := table{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := strings.CutPrefix(spec.Names[0].Name, "SYS_"); ok {
			number, err := strconv.ParseUint(spec.Values[0].(*ast.BasicLit).Value, 0, 32)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			calls[strings.ToLower(name)] = uint32(number)
		}
		return true
	})
	return calls
}

// The columns of this architecture are the right ones.
func TestNumber(t *testing.T) {
	for name, want := range map[string]uint32{"getpid": unix.SYS_GETPID, "openat": unix.SYS_OPENAT, "seccomp": unix.SYS_SECCOMP} {
		if n, ok := Number(name); !ok || n != want {
			t.Errorf("%s is %d, want %d", name, n, want)
		}
	}
	if _, ok := Number("fly"); ok {
		t.Error("a call that nobody has")
	}
	_, compat := tables()
	if n := compat["getpid"]; n != 20 { // on 386 and on arm
		t.Errorf("getpid is %d in 32 bits", n)
	}
}

func BenchmarkTable(b *testing.B) {
	for b.Loop() {
		columns(nativeColumn, compatColumn)
	}
}
