package source

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tonistiigi/fsutil"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/snapshot"
)

// paths returns what is seen of a folder.
func paths(t testing.TB, dir string, patterns []string) []string {
	t.Helper()
	l, err := NewLocal(dir, patterns, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out []string
	err = snapshot.Walk(l, ".", func(e snapshot.Entry) (bool, error) {
		if e.Path != "." {
			out = append(out, e.Path)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// oracle returns what BuildKit's client would send of the folder.
func oracle(t testing.TB, dir string, patterns []string) []string {
	t.Helper()
	all, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{ExcludePatterns: patterns})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = seen.Walk(context.Background(), "", func(p string, _ fs.DirEntry, err error) error {
		out = append(out, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var ignoreTree = []string{
	"a.log", "a.txt", "d/a.log", "d/b.txt", "d/e/a.log", "d/e/f/g.txt", "keep/a/x", "keep/b/y", "node_modules/p/index.js",
	"node_modules/q/README.md", "Dockerfile", ".dockerignore", ".git/config", "x@y/z",
}

var ignorePatterns = [][]string{
	nil,
	{"*.log"}, {"**/*.log"}, {"d"}, {"d/"}, {"d/e"}, {"d/*"}, {"*"}, {"**"},
	{"*", "!keep/a"}, {"*", "!keep"}, {"!keep/a", "*"}, {"keep", "!keep/b/y"}, {"*", "!d/e/f/g.txt"},
	{"node_modules", "!node_modules/*/README.md"}, {"node_modules", "!**/README.md"},
	{"**/*.txt", "!d/**"}, {"d", "!d/e", "d/e/f"}, {".*"}, {"[ad]*"}, {"?y"}, {"x@y"}, {"Dockerfile", ".dockerignore"},
	{"d/**", "!d/**/*.txt"}, {"*", "!**/g.txt"}, {"*", "!*/*/x"},
}

func TestIgnoreIsBuildKits(t *testing.T) {
	dir := t.TempDir()
	for _, p := range ignoreTree {
		testkit.Tree(t, dir, p+" = x")
	}
	for _, patterns := range ignorePatterns {
		t.Run(fmt.Sprint(patterns), func(t *testing.T) {
			want, got := oracle(t, dir, patterns), paths(t, dir, patterns)
			slices.Sort(want)
			slices.Sort(got)
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func FuzzIgnore(f *testing.F) {
	for _, p := range ignorePatterns {
		f.Add(strings.Join(p, "\n"))
	}
	dir := f.TempDir()
	for _, p := range ignoreTree {
		testkit.Tree(f, dir, p+" = x")
	}
	f.Fuzz(func(t *testing.T, text string) {
		patterns := strings.Split(text, "\n")
		if len(patterns) > 8 {
			return
		}
		l, err := NewLocal(dir, patterns, nil)
		if err != nil {
			return
		}
		defer l.Close()
		if err := snapshot.Walk(l, ".", func(snapshot.Entry) (bool, error) { return true, nil }); err != nil {
			return // a pattern that only shows to be wrong when it meets a path
		}
		for _, p := range paths(t, dir, patterns) {
			if _, err := os.Lstat(filepath.Join(dir, p)); err != nil {
				t.Errorf("%q is seen and not there", p)
			}
		}
	})
}

func TestIgnoredFolderIsNotEntered(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("as root a closed folder can be entered: only the result is checked")
	}
	dir := t.TempDir()
	testkit.Tree(t, dir, "open/f = x", "closed/f = x")
	if err := os.Chmod(filepath.Join(dir, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(dir, "closed"), 0o755)
	if d := cmp.Diff([]string{"open", "open/f"}, paths(t, dir, []string{"closed"})); d != "" {
		t.Error(d)
	}
}
