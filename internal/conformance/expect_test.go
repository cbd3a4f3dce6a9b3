package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// TestExpected builds every case as every account, and compares with what is written down.
func TestExpected(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the expectations name amd64")
	}
	users, list := accounts(t), cases(t)
	base(t)
	// Parallel tests end before what they share is removed.
	t.Run("cases", func(t *testing.T) {
		for _, c := range list {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				for i, a := range users {
					c.compare(t, a, *update && i == 0) // the others have to agree
				}
			})
		}
	})
}

// compare builds the case as a and compares the outcome with expect.txt, which write makes new.
func (c *buildCase) compare(t *testing.T, a *account, write bool) {
	t.Helper()
	got := c.outcome(t, a)
	if write {
		if err := os.WriteFile(c.expectFile(), []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(c.expectFile())
	if err != nil {
		t.Fatalf("%v: -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("as %s: got:\n%s\nwant:\n%s", a.name, got, want)
	}
}

// outcome builds the case as a and returns what came of it, in the form of expect.txt.
func (c *buildCase) outcome(t *testing.T, a *account) string {
	t.Helper()
	archive := filepath.Join(a.home, c.name+".tar")
	cmd := c.build(t, a, archive)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if _, err := os.Stat(archive); err == nil {
			t.Error("there is an archive of a build that failed")
		}
		return fmt.Sprintf("exit status %d\n%s", exit.ExitCode(), c.message(stderr.String()))
	case err != nil:
		t.Fatal(err)
	}
	image := strings.NewReplacer(c.web, "WEB", strings.TrimSuffix(c.web, "/"+c.name), "WEB").Replace(describe(t, openArchive(t, archive)))
	return image + warnings(stderr.String())
}

// warnings returns what standard error has to say about the Dockerfile.
func warnings(stderr string) string {
	var b strings.Builder
	for line := range strings.Lines(stderr) {
		if text, ok := strings.CutPrefix(line, "WARNING: "); ok && aboutLine.MatchString(line) {
			b.WriteString("  " + text)
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "warnings\n" + b.String()
}

var aboutLine = regexp.MustCompile(`\(line \d+\)\n$`)

// message returns the lines of standard error that say what is wrong and what to do.
func (c *buildCase) message(stderr string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.NewReplacer(c.dir, "CONTEXT", c.web, "WEB").Replace(stderr)) {
		if strings.HasPrefix(line, "build: ") || strings.HasPrefix(line, "hint: ") {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}
