package parser

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const text = "\ufeff# syntax=docker/dockerfile:1\n# escape=`\nARG A=1\nFROM busybox AS x\n" +
		"RUN echo a `\r\n  # comment\r\n  b\r\nFROM x\n"
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Stages) != 2 || f.Stages[0].Name != "x" || len(f.MetaArgs) != 1 {
		t.Errorf("got stages %+v, arguments %+v", f.Stages, f.MetaArgs)
	}
	if f.Escape != '`' {
		t.Errorf("escape is %q", f.Escape)
	}
	var names []string
	for _, d := range f.Directives {
		names = append(names, d.Name+"="+d.Value)
	}
	if diff := cmp.Diff([]string{"syntax=docker/dockerfile:1", "escape=`"}, names); diff != "" {
		t.Error(diff)
	}
	if start, end := lines(f.Stages[0].Commands[0].Location()); start != 5 || end != 7 {
		t.Errorf("RUN is at %d-%d, want 5-7", start, end)
	}
}

func TestWarnings(t *testing.T) {
	const text = "FROM busybox as Base\nRUN echo a \\\n\n b\n"
	tests := []struct {
		name, directive string
		want            []string
	}{
		{"all", "", []string{"NoEmptyContinuation", "StageNameCasing", "FromAsCasing"}},
		{"one skipped", "# check=skip=StageNameCasing\n", []string{"NoEmptyContinuation", "FromAsCasing"}},
		{"all skipped", "# check=skip=all;error=true\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse("Dockerfile", []byte(tt.directive+text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range f.Warnings {
				got = append(got, w.Rule)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Errors in whole files are golden files of llb/lower; these are those that
// have no file.
func TestParseErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "D: the Dockerfile cannot be empty"},
		{"\n\n", "dockerfile parse error on line 2: file with no instructions"},
		{"FROM a\nRUN " + strings.Repeat("x", 70000), "dockerfile parse error on line 2: dockerfile line greater than max allowed size of 65535"},
		{"# check=nonsense\nFROM a", `D:1: invalid check option "nonsense"`},
		{`{"syntax": "example.com/x"}`, "D:1: syntax example.com/x is not supported by this version"},
		{"#!/usr/bin/env x\n# syntax=example.com/x\nFROM a", "D:2: syntax example.com/x is not supported by this version"},
	}
	for _, tt := range tests {
		_, err := Parse("D", []byte(tt.text))
		var e *Error
		if !errors.As(err, &e) || e.Error() != tt.want {
			t.Errorf("%.40q: got %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestSyntaxOurs(t *testing.T) {
	for _, ref := range []string{
		"docker/dockerfile", "docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs",
		"docker/dockerfile@sha256:00", "docker/dockerfile-upstream:master", "dockerfile.v0",
	} {
		if _, err := Parse("D", []byte("# syntax = "+ref+"\nFROM a")); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"docker/dockerfilex", "evil.com/docker/dockerfile", "docker/dockerfile-evil:1"} {
		if _, err := Parse("D", []byte("# syntax = "+ref+"\nFROM a")); err == nil {
			t.Errorf("%s: accepted", ref)
		}
	}
}

func TestTrigger(t *testing.T) {
	f, err := Parse("D", []byte("FROM a\n\nFROM b"))
	if err != nil {
		t.Fatal(err)
	}
	loc := f.Stages[1].Location
	cmd, err := f.Trigger("RUN x", loc)
	if err != nil {
		t.Fatal(err)
	}
	if start, _ := lines(cmd.Location()); start != 3 {
		t.Errorf("trigger is at line %d, want that of its FROM", start)
	}
	for text, want := range map[string]string{
		"RUN a\nRUN b": "D:3: ONBUILD RUN a: onbuild trigger should be a single expression",
		"FROM x":       "D:3: ONBUILD FROM x: *instructions.Stage is not a command type",
		"NOPE x":       "D:3: ONBUILD NOPE x: unknown instruction: NOPE (did you mean COPY?)",
		"":             "D:3: ONBUILD : file with no instructions",
	} {
		if _, err := f.Trigger(text, loc); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestExcerpt(t *testing.T) {
	source := []byte("1\n2\n3\n4\r\n5\n6\n7")
	tests := []struct {
		start, end int
		want       string
	}{
		{1, 1, "D:1\n--\n   1 | >>> 1\n   2 |     2\n   3 |     3\n--\n"},
		{4, 4, "D:4\n--\n   2 |     2\n   3 |     3\n   4 | >>> 4\n   5 |     5\n   6 |     6\n--\n"},
		{6, 9, "D:6\n--\n   5 |     5\n   6 | >>> 6\n   7 | >>> 7\n--\n"},
		{7, 3, "D:7\n--\n   5 |     5\n   6 |     6\n   7 | >>> 7\n--\n"},
		{0, 0, ""},
		{8, 8, ""},
	}
	for _, tt := range tests {
		got := strings.ReplaceAll(Excerpt("D", source, tt.start, tt.end), "--------------------", "--")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%d-%d: %s", tt.start, tt.end, diff)
		}
	}
}

func TestRemote(t *testing.T) {
	for source, want := range map[string]string{
		"f": "", "/a/b.git": "", "github.com/a/b": "", "github.com/a/b?ref=x": "", "github.com/a/b?unknown=x": "git ref", "a@b": "", "http": "",
		"http://h/f": "URL", "https://h/f?x=.git": "URL",
		"https://h/r.git": "git ref", "https://h/r.git#main:dir": "git ref", "https://h/r.git?ref=x": "git ref",
		"git://h/r": "git ref", "ssh://git@h/r": "git ref", "git@h:r": "git ref",
	} {
		if got := Remote(source); got != want {
			t.Errorf("%s: got %q, want %q", source, got, want)
		}
	}
}

func TestParseIgnore(t *testing.T) {
	got, err := ParseIgnore(".dockerignore", []byte("\ufeff# comment\n #pattern\n/a/\n\n!b/../c \n**/*.log\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"#pattern", "a", "!c", "**/*.log"}, got); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"ok\n[":                                `x.dockerignore: pattern "[": syntax error in pattern`,
		"!":                                    `x.dockerignore: pattern "!": illegal exclusion pattern: "!"`,
		"a\n" + strings.Repeat("long", 20_000): "x.dockerignore: bufio.Scanner: token too long",
	} {
		if _, err := ParseIgnore("x.dockerignore", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

// The parser reads bytes that it is handed, and nothing else.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if slices.Contains([]string{"os", "net", "net/http", "io/fs"}, path) {
			t.Errorf("parser imports %s", path)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("../testdata/dockerfiles/*/Dockerfile")
	graphs, _ := filepath.Glob("../testdata/dockerfiles/graph/*/Dockerfile")
	bad, _ := filepath.Glob("../testdata/dockerfiles/graph/errors/*/Dockerfile")
	for _, name := range slices.Concat(files, graphs, bad) {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("Dockerfile", data)
		if err == nil {
			if len(file.Stages) == 0 {
				t.Error("no stages and no error")
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("error without a position: %v", err)
		}
		if e.Start > e.End || e.Start < 0 {
			t.Errorf("lines %d to %d", e.Start, e.End)
		}
		e.Excerpt(data)
	})
}

func FuzzParseIgnore(f *testing.F) {
	f.Add([]byte("\ufeff# comment\n*\n!keep/a\n**/x\n"))
	f.Add([]byte("["))
	f.Add([]byte("!"))
	f.Fuzz(func(t *testing.T, data []byte) {
		patterns, err := ParseIgnore(".dockerignore", data)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("not an *Error: %v", err)
		}
		if slices.Contains(patterns, "") {
			t.Errorf("empty pattern in %q", patterns)
		}
	})
}
