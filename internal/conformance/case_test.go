package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const casesDir = "../../testdata/dockerfiles"

// A buildCase is a folder of testdata/dockerfiles.
type buildCase struct {
	name string
	args []string // options of the build
	dir  string   // a copy that every user can read, prepared and without what is not of the context
	web  string   // where its folder web is served
}

// cases returns all cases, ready to be built.
func cases(t *testing.T) []*buildCase {
	t.Helper()
	files, err := filepath.Glob(casesDir + "/*/Dockerfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	dir := tempDir(t)
	web := newWeb(t, dir)
	var list []*buildCase
	for _, f := range files {
		list = append(list, newCase(t, f, dir, web))
	}
	return list
}

func newCase(t *testing.T, dockerfile, dir, web string) *buildCase {
	t.Helper()
	from := filepath.Dir(dockerfile)
	c := &buildCase{name: filepath.Base(from)}
	c.dir, c.web = filepath.Join(dir, c.name), web+"/"+c.name
	output(t, exec.Command("cp", "-r", from, c.dir))
	output(t, exec.Command("chmod", "-R", "u=rwX,go=rX", c.dir)) // whatever the umask of the checkout
	if _, err := os.Stat(filepath.Join(c.dir, "prepare.sh")); err == nil {
		prepare := exec.Command("sh", "-e", "./prepare.sh")
		prepare.Dir, prepare.Env = c.dir, append(os.Environ(), "CASES="+absolute(t, casesDir))
		output(t, prepare)
	}
	for _, name := range []string{"prepare.sh", "expect.txt", "graph.golden"} {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if options, ok := strings.CutPrefix(line, "#opt:"); ok {
			c.args = append(c.args, strings.Fields(strings.NewReplacer("$CONTEXT", c.dir, "$WEB", c.web).Replace(options))...)
		}
	}
	return c
}

func (c *buildCase) expectFile() string { return filepath.Join(casesDir, c.name, "expect.txt") }

// build builds the case as a, into an archive.
func (c *buildCase) build(t *testing.T, a *account, archive string) *exec.Cmd {
	t.Helper()
	args := append([]string{"--build-context", "busybox=oci-layout://" + base(t), "--progress", "plain", "-o", "type=oci,dest=" + archive}, c.args...)
	return a.command(append(args, c.dir)...)
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	name, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
