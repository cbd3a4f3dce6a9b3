package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/solver"
)

// mutated is the Dockerfile that the mutations are about; REG is a registry.
const mutated = `FROM REG/base AS tools
RUN echo tools > /tools
FROM REG/base AS build
ARG VERSION=1.2
ARG API_TOKEN=abc
ENV MODE=fast LEVEL=1
WORKDIR /src
COPY go.mod go.sum ./
RUN cat go.mod go.sum > /deps
COPY . .
RUN --mount=type=cache,id=c,target=/c --mount=type=bind,from=tools,source=/tools,target=/t cat /t > /out
USER 1000
RUN id -u > /tmp/id
FROM scratch
COPY --from=build --chown=1:1 /out /out
COPY <<EOT /doc
a document
EOT
`

// A bench is a folder that is built again and again.
type bench struct {
	t              *testing.T
	dir, store, ip string
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: testkit.OpenDir(t), store: testkit.OpenDir(t), ip: testkit.Registry(t)}
	testkit.PushImage(t, b.ip, "base:latest", testkit.Busybox(t))
	t.Cleanup(func() { exec.Command(removeStore, b.store).Run() }) // files of other owners, if this is no root
	return b
}

// reset makes the folder what it is before a mutation.
func (b *bench) reset() {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(b.dir, e.Name())); err != nil {
			b.t.Fatal(err)
		}
	}
	b.write(".dockerignore", "Dockerfile\n.dockerignore\nignored\n")
	testkit.Tree(b.t, b.dir, "go.mod 644 = m", "go.sum 644 = s", "Makefile 644 = all:", "cmd/main.go 644 = main",
		"cmd/b.go 644 = b", "cmd/c.go 644 = c", "cmd/d.go 644 = d", "link -> go.mod", "ignored 644 = i")
	b.dockerfile(mutated)
}

func (b *bench) dockerfile(text string) { b.write("Dockerfile", strings.ReplaceAll(text, "REG", b.ip)) }

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// edit replaces a text in the Dockerfile.
func edit(old, now string) func(*bench) []string {
	return func(b *bench) []string {
		b.t.Helper()
		if strings.Count(mutated, old) != 1 {
			b.t.Fatalf("%q is not once in the Dockerfile", old)
		}
		b.dockerfile(strings.Replace(mutated, old, now, 1))
		return nil
	}
}

// files runs a shell command in the folder.
func files(command string) func(*bench) []string {
	return func(b *bench) []string {
		b.t.Helper()
		cmd := exec.Command("sh", "-ec", "umask 022; "+command)
		cmd.Dir = b.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.t.Fatalf("%s: %v: %s", command, err, out)
		}
		return nil
	}
}

// options returns a mutation of the command line.
func options(list ...string) func(*bench) []string { return func(*bench) []string { return list } }

// build runs the command, and returns what it prints and its exit status.
func (b *bench) build(args ...string) (stdout string, status int) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), mainVerb, args...)
	cmd.Env = append(os.Environ(), "BUILD_ROOT="+b.store, "BUILDKIT_PROGRESS=plain", "DOCKER_CONFIG="+b.store)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	if status = cmd.ProcessState.ExitCode(); status == exitHost || status == exitUsage {
		b.t.Fatalf("build %q: status %d\n%s", args, status, errs.String())
	}
	return string(out), status
}

// why returns what the last build recorded of its steps, by label.
func (b *bench) why() map[string]explained {
	b.t.Helper()
	out, _ := b.build("why", "--json")
	var record struct{ Steps []explained }
	if err := json.Unmarshal([]byte(out), &record); err != nil {
		b.t.Fatal(err, out)
	}
	steps := map[string]explained{}
	for _, s := range record.Steps {
		steps[s.Label] = s
	}
	return steps
}

// plan returns what a build would do, and checks the exit status.
func (b *bench) plan(args []string) *forecast {
	b.t.Helper()
	out, status := b.build(append([]string{"plan", "--json"}, append(args, b.dir)...)...)
	f := &forecast{}
	if err := json.Unmarshal([]byte(out), f); err != nil {
		b.t.Fatal(err, out)
	}
	if want := map[bool]int{true: exitWork}[f.Run+f.Depends > 0]; status != want {
		b.t.Errorf("plan: status %d, want %d", status, want)
	}
	return f
}

// causes returns the causes of the steps that ran, without what is about another step, as "RUN make: argument ...".
func causes(steps map[string]explained) (out []string) {
	for label, s := range steps {
		if s.Cause != nil && s.Cause.Reason != history.Input {
			_, text, _ := strings.Cut(label, "] ")
			words := strings.Fields(text)
			own, _, _ := strings.Cut(s.Cause.Text, ", input ")
			out = append(out, strings.Join(words[:min(2, len(words))], " ")+": "+own)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// mutations are changes between two builds, each with all that has a cause of its own.
var mutations = []struct {
	name   string
	change func(*bench) []string // returns options
	want   []string
}{
	{"nothing", files("true"), nil},
	{"times", files("touch -d 2001-01-01 go.mod cmd Makefile"), nil},
	{"an ignored file", files("echo x > ignored"), nil},
	{"a comment", edit("FROM scratch", "# comment\nFROM scratch\nLABEL a=b"), nil},
	{"a stage has another name", edit("FROM scratch", "FROM scratch AS last"), nil},
	{"an argument that nobody declares", options("--build-arg", "OTHER=1"), nil},

	{"bytes", files("echo x > go.sum"), []string{"COPY .: go.sum changed", "COPY go.mod: go.sum changed"}},
	{"a file in a folder", files("echo x > cmd/main.go"), []string{"COPY .: cmd/main.go changed"}},
	{"the mode", files("chmod 664 Makefile"), []string{"COPY .: Makefile 0644 -> 0664"}},
	{"all at once", files("echo x > cmd/main.go; chmod 664 Makefile; touch x y"), []string{"COPY .: cmd/main.go changed, Makefile 0644 -> 0664, +2 files"}},
	{"a new file", files("touch new"), []string{"COPY .: +new"}},
	{"two new files", files("touch new cmd/new"), []string{"COPY .: +2 files"}},
	{"a file less", files("rm Makefile"), []string{"COPY .: -Makefile"}},
	{"another name", files("mv Makefile makefile"), []string{"COPY .: +makefile, -Makefile"}},
	{"a new folder", files("mkdir empty"), []string{"COPY .: +empty/"}},
	{"a link in place of a file", files("ln -sf go.mod Makefile"), []string{"COPY .: Makefile is a symbolic link now"}},
	{"a link to something else", files("ln -sf go.sum link"), []string{"COPY .: link changed"}},
	{"many files", files("for f in cmd/*; do echo x > $f; done; chmod 600 Makefile"), []string{
		"COPY .: cmd/b.go changed, cmd/c.go changed, cmd/d.go changed, 2 more changed"}},
	{"the same bytes as a hard link", files("ln -f cmd/b.go cmd/e.go"), []string{"COPY .: +cmd/e.go"}},
	{"a pattern in .dockerignore", files("echo cmd/c.go >> .dockerignore"), []string{"COPY .: -cmd/c.go"}},
	{"a pattern less in .dockerignore", files("printf 'Dockerfile\n.dockerignore\n' > .dockerignore"), []string{"COPY .: +ignored"}},

	{"an argument", options("--build-arg", "VERSION=1.3"), []string{
		"RUN --mount=type=cache,id=c,target=/c: argument VERSION 1.2 -> 1.3", "RUN cat: argument VERSION 1.2 -> 1.3", "RUN id: argument VERSION 1.2 -> 1.3"}},
	{"the default of an argument", edit("VERSION=1.2", "VERSION=2"), []string{
		"RUN --mount=type=cache,id=c,target=/c: argument VERSION 1.2 -> 2", "RUN cat: argument VERSION 1.2 -> 2", "RUN id: argument VERSION 1.2 -> 2"}},
	{"a secret in an argument", options("--build-arg", "API_TOKEN=xyz"), []string{
		"RUN --mount=type=cache,id=c,target=/c: argument API_TOKEN changed", "RUN cat: argument API_TOKEN changed", "RUN id: argument API_TOKEN changed"}},
	{"a variable", edit("MODE=fast", "MODE=slow"), []string{
		"RUN --mount=type=cache,id=c,target=/c: variable MODE fast -> slow", "RUN cat: variable MODE fast -> slow", "RUN id: variable MODE fast -> slow"}},
	{"a new variable", edit("RUN id -u", "ENV NEW=x\nRUN id -u"), []string{"RUN id: variable NEW is x now"}},
	{"a variable less", edit(" LEVEL=1", ""), []string{
		"RUN --mount=type=cache,id=c,target=/c: no variable LEVEL any more", "RUN cat: no variable LEVEL any more", "RUN id: no variable LEVEL any more"}},
	{"the order of variables", edit("MODE=fast LEVEL=1", "LEVEL=1 MODE=fast"), []string{
		"RUN --mount=type=cache,id=c,target=/c: order of the environment changed", "RUN cat: order of the environment changed", "RUN id: order of the environment changed"}},
	{"a command", edit("id -u > /tmp/id", "id -g > /tmp/id"), []string{`RUN id: command "id -u > /tmp/id" -> "id -g > /tmp/id"`}},
	{"the exec form", edit("RUN id -u > /tmp/id", `RUN ["id", "-u"]`), []string{`RUN ["id",: command "id -u > /tmp/id" -> "id -u", no shell any more`}},
	{"the shell", edit("RUN id -u", "SHELL [\"/bin/sh\", \"-x\", \"-c\"]\nRUN id -u"), []string{`RUN id: shell "/bin/sh -c" -> "/bin/sh -x -c"`}},
	{"a new step", edit("USER 1000", "RUN true\nUSER 1000"), []string{"RUN true: new step"}},
	{"a linked copy", edit("COPY <<EOT", "COPY --link go.mod /m\nCOPY <<EOT"), []string{"COPY --link: new step", "LINK COPY: new step"}},
	{"the working directory", edit("USER 1000", "WORKDIR /tmp\nUSER 1000"), []string{"RUN id: WORKDIR /src -> /tmp", "WORKDIR /tmp: new step"}},
	{"the user", edit("USER 1000", "USER 1001"), []string{"RUN id: USER 1000 -> 1001"}},
	{"another cache", edit("id=c,", "id=d,"), []string{
		`RUN --mount=type=cache,id=d,target=/c: mount cache /c "id=/c sharing=shared" -> "id=/d sharing=shared"`}},
	{"a mount more", edit("RUN id -u", "RUN --mount=type=tmpfs,target=/t2 id -u"), []string{`RUN --mount=type=tmpfs,target=/t2: mount tmpfs /t2 is "" now`}},
	{"without a network", edit("RUN id -u", "RUN --network=none id -u"), []string{"RUN --network=none: network default -> none"}},
	{"a line of /etc/hosts", options("--add-host", "h:1.2.3.4"), []string{
		"RUN --mount=type=cache,id=c,target=/c: host h is 1.2.3.4 now", "RUN cat: host h is 1.2.3.4 now", "RUN echo: host h is 1.2.3.4 now", "RUN id: host h is 1.2.3.4 now"}},
	{"the destination", edit("/out /out", "/out /app"), []string{"COPY --from=build: destination /out -> /app"}},
	{"the owner", edit("--chown=1:1", "--chown=2:2"), []string{"COPY --from=build: --chown 1:1 -> 2:2"}},
	{"the permission bits", edit("COPY . .", "COPY --chmod=700 . ."), []string{"COPY --chmod=700: --chmod is 0700 now"}},
	{"what is left out", edit("COPY . .", "COPY --exclude=cmd . ."), []string{"COPY --exclude=cmd: --exclude is cmd now, -4 files"}},
	{"a here-document", edit("a document", "another document"), []string{"COPY <<EOT: EOT changed", "preparing inline: text of /EOT changed"}},
	{"a step of another stage", edit("echo tools", "echo other"), []string{"COPY --from=build: out changed", "RUN --mount=type=cache,id=c,target=/c: tools changed",
		`RUN echo: command "echo tools > /tools" -> "echo other > /tools"`}},
	{"the sources", edit("COPY go.mod go.sum ./", "COPY go.mod go.sum Makefile ./"), []string{
		`COPY go.mod: sources "/go.mod, /go.sum" -> "/go.mod, /go.sum, /Makefile", +Makefile`}},
	{"--no-cache-filter", options("--no-cache-filter", "tools"), []string{"RUN echo: --no-cache-filter tools"}},
	{"--no-cache", options("--no-cache"), []string{"COPY --from=build: --no-cache", "COPY .: --no-cache", "COPY <<EOT: --no-cache", "COPY go.mod: --no-cache",
		"RUN --mount=type=cache,id=c,target=/c: --no-cache", "RUN cat: --no-cache", "RUN echo: --no-cache", "RUN id: --no-cache", "WORKDIR /src: --no-cache"}},
	{"another target", options("--target", "tools"), nil},
	{"the index is lost", func(b *bench) []string {
		if err := os.RemoveAll(filepath.Join(b.store, "index")); err != nil {
			b.t.Fatal(err)
		}
		return nil
	}, []string{
		"COPY --from=build: " + goneText, "COPY .: " + goneText, "COPY <<EOT: " + goneText, "COPY go.mod: " + goneText,
		"RUN --mount=type=cache,id=c,target=/c: " + goneText, "RUN cat: " + goneText, "RUN echo: " + goneText, "RUN id: " + goneText, "WORKDIR /src: " + goneText,
		"preparing inline: " + goneText}},
	{"another base", func(b *bench) []string {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(testkit.Tar(b.t, "etc/new = x"))), nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
		img, err := mutate.AppendLayers(testkit.Busybox(b.t), layer)
		if err != nil {
			b.t.Fatal(err)
		}
		testkit.PushImage(b.t, b.ip, "base:latest", img)
		return []string{"--pull"}
	}, []string{"FROM: digest"}},
}

const goneText = "its result is not in the store any more"

// Of forty and more changes each one is named as the cause, and of no step but those that it is the cause of. What a plan says
// before is what the build does.
func TestMutations(t *testing.T) {
	b := newBench(t)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			b.t = t
			b.reset()
			if _, status := b.build(b.dir); status != 0 {
				t.Fatalf("before: status %d", status)
			}
			args := m.change(b)
			plan := b.plan(args)
			if _, status := b.build(append(args, b.dir)...); status != 0 {
				t.Fatalf("status %d", status)
			}
			steps := b.why()
			if got := causes(steps); !sameCauses(got, m.want) {
				t.Errorf("causes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(m.want, "\n"))
			}
			agree(t, plan, steps)
		})
	}
}

func sameCauses(got, want []string) bool {
	return slices.EqualFunc(got, want, func(g, w string) bool {
		return g == w || w == "FROM: digest" && strings.Contains(g, ": digest sha256:")
	})
}

// agree holds a plan against what the build has done.
func agree(t *testing.T, plan *forecast, steps map[string]explained) {
	t.Helper()
	if len(plan.Steps) == 0 {
		t.Error("the plan is empty")
	}
	for _, p := range plan.Steps {
		s, ok := steps[p.Label]
		want := map[solver.Action][]string{solver.Source: {"source"}, solver.Reuse: {"reused"}, solver.Run: {"ran"}, solver.Depends: {"ran", "reused"}}[p.Action]
		if !ok || !slices.Contains(want, s.Action) {
			t.Errorf("%s: planned %s, and %s", p.Label, p.Action, s.Action)
		}
		if p.Action == solver.Run && (p.Cause == nil || s.Cause == nil || p.Cause.Text != s.Cause.Text) {
			t.Errorf("%s: planned for %v, run for %v", p.Label, p.Cause, s.Cause)
		}
		if p.Action == solver.Depends && !slices.ContainsFunc(p.On, func(label string) bool {
			return steps[label].Action == "ran" || slices.ContainsFunc(plan.Steps, func(o planned) bool { return o.Label == label && works(o.Action) })
		}) {
			t.Errorf("%s: depends on %q, of which none works", p.Label, p.On)
		}
	}
}
