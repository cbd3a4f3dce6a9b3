package lower

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

func parse(t testing.TB, text string) *parser.File {
	t.Helper()
	f, err := parser.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func options() Options {
	return Options{Platform: amd64, BuildPlatform: amd64, Resolve: fakeResolve}
}

func lower(t *testing.T, text string, opt Options) *Result {
	t.Helper()
	res, err := Lower(t.Context(), parse(t, text), opt)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// A File is lowered for several platforms or arguments, at the same time perhaps, and each time as if it were the first.
func TestFileIsLoweredForManyAtOnce(t *testing.T) {
	const text = "FROM busybox AS base\nARG DIR\nONBUILD RUN --mount=type=tmpfs,target=/$DIR true\n" +
		"FROM base\nARG DIR\nRUN --mount=type=cache,target=/$DIR --mount=type=bind,from=base,target=/m/$DIR true\nCOPY <<EOT a /$DIR/\n$DIR\nEOT\nENV X=$DIR\nLABEL l=$DIR\n"
	f := parse(t, text)
	var g sync.WaitGroup
	for _, dir := range []string{"one", "two", "three", "four"} {
		opt := options()
		opt.BuildArgs = map[string]string{"DIR": dir}
		want := dump(t, lower(t, text, opt))
		g.Go(func() {
			res, err := Lower(t.Context(), f, opt)
			if err != nil {
				t.Error(err)
				return
			}
			if d := cmp.Diff(want, dump(t, res)); d != "" {
				t.Error(d)
			}
		})
	}
	g.Wait()
	for _, c := range f.Stages[1].Commands {
		if run, ok := c.(*instructions.RunCommand); ok && instructions.GetMounts(run)[0].Target != "" {
			t.Errorf("the file knows of an argument: %+v", instructions.GetMounts(run)[0])
		}
	}
}

// A File is lowered once per platform, so that lowering must leave it as it is.
func TestFileIsNotChanged(t *testing.T) {
	for _, dir := range graphDirs(t) {
		data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
		if err != nil {
			t.Fatal(err)
		}
		f := parse(t, string(data))
		var dumps [2]string
		for i := range dumps {
			res, err := Lower(t.Context(), f, caseOptions(t, string(data)))
			if err != nil {
				t.Fatal(err)
			}
			dumps[i] = dump(t, res)
		}
		if diff := cmp.Diff(dumps[0], dumps[1]); diff != "" {
			t.Errorf("%s: the second time is different:\n%s", dir, diff)
		}
	}
}

// An image is asked for once per platform, however often it is named.
func TestResolveOnce(t *testing.T) {
	const text = `FROM busybox AS a
FROM docker.io/library/busybox:latest AS b
FROM --platform=linux/arm64 busybox AS c
FROM scratch
COPY --from=a / /
COPY --from=b / /
COPY --from=c / /
COPY --from=alpine /1 /1
COPY --from=alpine /2 /2
COPY --from=busybox / /
`
	var mu sync.Mutex
	got := map[string]int{}
	opt := options()
	opt.Resolve = func(ctx context.Context, ref string, p ocispec.Platform) (*Image, error) {
		mu.Lock()
		defer mu.Unlock()
		got[ref+" "+p.Architecture]++
		return fakeResolve(ctx, ref, p)
	}
	lower(t, text, opt)
	want := map[string]int{
		"docker.io/library/busybox:latest amd64": 1,
		"docker.io/library/busybox:latest arm64": 1,
		"docker.io/library/alpine:latest amd64":  1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Images are asked for at the same time, and the first failure stops the others.
func TestResolveInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := options()
		opt.Resolve = func(ctx context.Context, ref string, p ocispec.Platform) (*Image, error) {
			if strings.Contains(ref, "bad") {
				testkit.Pass(time.Second)
				return nil, errors.New("bad: denied")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		f := parse(t, "FROM slow AS a\nFROM bad\nCOPY --from=a / /\n")
		_, err := Lower(t.Context(), f, opt)
		if err == nil || err.Error() != "Dockerfile:2: bad: denied" {
			t.Errorf("got %v", err)
		}
	})
}

// Steps that two stages share, and the context, are the same vertices.
func TestSharedVertices(t *testing.T) {
	res := lower(t, `FROM busybox AS base
COPY a /a
RUN make
FROM base AS one
COPY b /b
FROM base
COPY --from=one /b /b
`, options())
	byID := map[string]*llb.Vertex{}
	var visit func(v *llb.Vertex)
	visit = func(v *llb.Vertex) {
		id := v.ID().String()
		if byID[id] != nil && byID[id] != v {
			t.Errorf("two vertices for %s", v.Meta().Label)
		}
		byID[id] = v
		for _, in := range v.Inputs() {
			visit(in)
		}
	}
	visit(res.Root)
}

// What cannot change a result must not change an ID.
func TestSameID(t *testing.T) {
	const text = "ARG U\nFROM busybox\nARG A\nRUN make\n"
	want := lower(t, text, options()).Root.ID()
	for name, change := range map[string]func(*Options){
		"an argument nobody declares": func(o *Options) { o.BuildArgs = map[string]string{"X": "1"} },
		"a proxy":                     func(o *Options) { o.BuildArgs = map[string]string{"https_proxy": "h"} },
		"a global argument":           func(o *Options) { o.BuildArgs = map[string]string{"U": "1"} },
		"no cache":                    func(o *Options) { o.NoCache = true },
		"labels":                      func(o *Options) { o.Labels = map[string]string{"a": "b"} },
		"ignore patterns":             func(o *Options) { o.Ignore = []string{"*"} },
	} {
		opt := options()
		change(&opt)
		if got := lower(t, text, opt).Root.ID(); got != want {
			t.Errorf("%s changes the ID", name)
		}
	}
	opt := options()
	opt.BuildArgs = map[string]string{"A": "1"}
	if lower(t, text, opt).Root.ID() == want {
		t.Error("a declared argument does not change the ID")
	}
}

func TestContextName(t *testing.T) {
	opt := options()
	opt.NamedContexts = map[string]Context{"UPPER": {}}
	_, err := Lower(t.Context(), parse(t, "FROM scratch"), opt)
	if err == nil || err.Error() != `invalid context name "UPPER"` {
		t.Errorf("got %v", err)
	}
}

func TestDestination(t *testing.T) {
	for _, tt := range []struct{ workdir, dest, want string }{
		{"/w", "x", "/w/x"},
		{"/w", "x/", "/w/x/"},
		{"/w", "x/.", "/w/x/"},
		{"/w", ".", "/w/"},
		{"/w", "", "/w/"},
		{"/w", "./", "/w/"},
		{"/w", "..", "/"},
		{"/w", "../../x", "/x"},
		{"/w", "/x//y/", "/x/y/"},
		{"/w", "/../x", "/x"},
		{"/", ".", "/"},
		{"/", "/", "/"},
		{"/", "/.", "/"},
	} {
		if got := destination(tt.workdir, tt.dest); got != tt.want {
			t.Errorf("%q in %s: got %s, want %s", tt.dest, tt.workdir, got, tt.want)
		}
	}
}

func TestHasWildcard(t *testing.T) {
	for p, want := range map[string]bool{
		"/a": false, "/a*": true, "/a?": true, "/[a]": true, `/a\*`: false, `/a\\*`: true, `/a\`: false, `/a]`: false,
	} {
		if hasWildcard(p) != want {
			t.Errorf("%s: got %v", p, !want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for spec, want := range map[string]string{
		"80":                 "80/tcp",
		"80/":                "80/tcp",
		"80/SCTP":            "80/sctp",
		"0":                  "0/tcp",
		"8000-8002/udp":      "8000/udp 8001/udp 8002/udp",
		"80-80":              "80/tcp",
		"1:80":               "80/tcp",
		"1-9:80":             "80/tcp",
		"1-2:80-81":          "80/tcp 81/tcp",
		"127.0.0.1::80":      "80/tcp",
		"[::1]:1:80":         "80/tcp",
		"::1:1:80":           "80/tcp",
		"":                   `invalid port: "": no port specified`,
		"/tcp":               `invalid port: "/tcp": no port specified`,
		"80/Xy":              `invalid port: "80/Xy": invalid proto: Xy`,
		"65536":              "invalid containerPort: 65536",
		"-1":                 "invalid containerPort: -1",
		"90-80":              "invalid containerPort: 90-80",
		"80-":                "invalid containerPort: 80-",
		"x:80":               "invalid hostPort: x",
		"host:1:80":          "invalid IP address: host",
		"1-3:80-81":          "invalid ranges specified for container and host Ports: 80-81 and 1-3",
		"[zz]:1:80":          "invalid IP address: [zz]",
		"999.1.1.1:80:81-82": "invalid IP address: 999.1.1.1",
	} {
		ports, err := parsePorts(spec)
		got := strings.Join(ports, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", spec, got, want)
		}
	}
}

func TestProxyVariables(t *testing.T) {
	got := proxyVariables(map[string]string{
		"HTTP_PROXY": "upper", "http_proxy": "lower", "NO_PROXY": "n", "FTP_PROXY": "", "OTHER": "x",
	})
	want := []string{"HTTP_PROXY=lower", "http_proxy=lower", "NO_PROXY=n", "no_proxy=n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzLower(f *testing.F) {
	for _, pattern := range []string{"*", "errors/*"} {
		files, _ := filepath.Glob(filepath.Join(cases, pattern, "Dockerfile"))
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, "k=v")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, arg string) {
		file, err := parser.Parse("Dockerfile", data)
		if err != nil {
			return
		}
		opt := options()
		key, value, _ := strings.Cut(arg, "=")
		opt.BuildArgs = map[string]string{key: value}
		res, err := Lower(t.Context(), file, opt)
		if err != nil {
			var e *parser.Error
			if !errors.As(err, &e) {
				t.Fatalf("error without a position: %v", err)
			}
			return
		}
		checkResult(t, res)
		var b bytes.Buffer
		if err := llb.Dump(&b, res.Root); err != nil {
			t.Error(err)
		}
	})
}

// checkResult checks what the exporter counts on: every layer has its line in the history.
func checkResult(t *testing.T, res *Result) {
	layers := 0
	for v := res.Root; ; v = v.Inputs()[0] {
		if len(v.Inputs()) == 0 {
			break
		}
		layers++
	}
	lines := 0
	for _, h := range res.Config.History {
		if !h.EmptyLayer {
			lines++
		}
	}
	if layers+res.BaseLayers != lines {
		t.Errorf("%d layers upon %d of the base, but history has %d", layers, res.BaseLayers, lines)
	}
}

func TestSuggestBase(t *testing.T) {
	f, err := parser.Parse("Dockerfile", []byte("FROM scratch AS builder\nFROM x"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLowering(t.Context(), f, Options{Platform: amd64, BuildPlatform: amd64})
	if err == nil {
		err = l.addStages()
	}
	if err != nil {
		t.Fatal(err)
	}
	for base, want := range map[string]string{
		"bulder": "did you mean the stage builder?", "apline": "did you mean alpine?", "debain:12": "did you mean debian:12?",
		"debian:12": "", "example.com/app": "",
	} {
		s := &stage{lowering: l, base: base}
		if got := s.suggestBase(); got != want {
			t.Errorf("%s: got %q, want %q", base, got, want)
		}
	}
}
