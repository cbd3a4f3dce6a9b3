package executor

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// watched notes the folders that are read.
type watched struct {
	snapshot.Tree
	read []string
}

func (w *watched) ReadDir(p string) ([]snapshot.Entry, error) {
	w.read = append(w.read, p)
	return w.Tree.ReadDir(p)
}

func TestSelect(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "a/b/f = 1", "a/b/g.md = 2", "a/c/f = 3", "d/e/h.md = 4", "top = 5")
	tests := []struct {
		name          string
		root, include string
		exclude       []string
		want          string // a folder that is only passed is in brackets
		read          string // the folders that are read
	}{
		{name: "all", root: ".", want: "a a/b a/b/f a/b/g.md a/c a/c/f d d/e d/e/h.md top", read: ". a a/b a/c d d/e"},
		{name: "below", root: "a", want: "a/b a/b/f a/b/g.md a/c a/c/f", read: "a a/b a/c"},
		{name: "one file", root: ".", include: "a/b/f", want: "(a) (a/b) a/b/f", read: ". a a/b"},
		{name: "a folder", root: ".", include: "a/b", want: "(a) a/b a/b/f a/b/g.md", read: ". a a/b"},
		{name: "below a root", root: "a", include: "*/f", want: "(a/b) a/b/f (a/c) a/c/f", read: "a a/b a/c"},
		{name: "nothing", root: ".", include: "a/x*/f", want: "", read: ". a a/b a/c"},
		{name: "any depth", root: ".", include: "**/*.md", want: "(a) (a/b) a/b/g.md (d) (d/e) d/e/h.md", read: ". a a/b a/c d d/e"},
		{name: "without a folder", root: ".", exclude: []string{"a", "top"}, want: "d d/e d/e/h.md", read: ". d d/e"},
		{name: "taken back", root: ".", exclude: []string{"*", "!a/c/f"}, want: "(a) (a/c) a/c/f", read: ". a a/b a/c d d/e"},
		{name: "both", root: ".", include: "a", exclude: []string{"**/*.md", "a/c"}, want: "a a/b a/b/f", read: ". a a/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := &watched{Tree: x.Locals["context"]}
			var list []selected
			err := selectBelow(t.Context(), tree, tt.root, &llb.Copy{Exclude: tt.exclude}, llb.Source{Path: "/", Include: tt.include}, func(s selected) error {
				list = append(list, s)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range list {
				if s.passed {
					got = append(got, "("+s.Path+")")
				} else {
					got = append(got, s.Path)
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.read, strings.Join(tree.read, " ")); diff != "" {
				t.Errorf("folders read: %s", diff)
			}
		})
	}
	none := func(s selected) error { return fmt.Errorf("%s was found", s.Path) }
	err := selectBelow(t.Context(), x.Locals["context"], ".", &llb.Copy{}, llb.Source{Path: "/", Include: "a/x", Required: true}, none)
	var missing *NotFoundError
	if !errors.As(err, &missing) || missing.Path != "/a/x" {
		t.Errorf("error %v", err)
	}
}
