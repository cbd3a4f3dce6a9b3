package lower

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// built are the cases that package conformance builds; of some the graph is of interest too. Those in cases are
// not built, and lines "#opt: KEY VALUE" in their Dockerfiles set options.
const (
	built = "../../testdata/dockerfiles"
	cases = built + "/graph"
)

// TestGolden lowers the Dockerfile of every case that has a graph.golden.
func TestGolden(t *testing.T) {
	for _, dir := range graphDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			res, err := lowerCase(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, filepath.Join(dir, "graph.golden"), dump(t, res))
		})
	}
}

// TestErrors is TestGolden for what must fail, at Parse or at Lower.
func TestErrors(t *testing.T) {
	for _, dir := range caseDirs(t, filepath.Join(cases, "errors"), "Dockerfile") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			_, err := lowerCase(t, dir)
			if err == nil {
				t.Fatal("no error")
			}
			checkGolden(t, filepath.Join(dir, "error.golden"), errorText(t, dir, err))
		})
	}
}

func errorText(t *testing.T, dir string, err error) string {
	var e *parser.Error
	if !errors.As(err, &e) {
		t.Fatalf("not a *parser.Error: %v", err)
	}
	source, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	text := e.Excerpt(source) + e.Error() + "\n"
	if e.Hint != "" {
		text += "hint: " + e.Hint + "\n"
	}
	return text
}

// graphDirs returns the folders of cases that have a graph.
func graphDirs(t *testing.T) []string {
	return append(caseDirs(t, cases, "Dockerfile"), caseDirs(t, built, "graph.golden")...)
}

// caseDirs returns the folders below root that have such a file.
func caseDirs(t *testing.T, root, file string) []string {
	files, err := filepath.Glob(filepath.Join(root, "*", file))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s: %v", root, err)
	}
	for i := range files {
		files[i] = filepath.Dir(files[i])
	}
	return files
}

func checkGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs; go test -update if that is meant (-want +got):\n%s", file, diff)
	}
}

// dump returns all of a Result as text.
func dump(t *testing.T, res *Result) string {
	var b bytes.Buffer
	if err := llb.Dump(&b, res.Root); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "\nbase layers %d, history %d\n", res.BaseLayers, res.BaseHistory)
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(res.Config); err != nil {
		t.Fatal(err)
	}
	for _, w := range res.Warnings {
		fmt.Fprintf(&b, "warning %d: %s: %s\n", w.Start, w.Rule, w.Text)
	}
	return b.String()
}

func lowerCase(t *testing.T, dir string) (*Result, error) {
	data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.Parse("Dockerfile", data)
	if err != nil {
		return nil, err
	}
	return Lower(t.Context(), f, caseOptions(t, string(data)))
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func caseOptions(t *testing.T, text string) Options {
	opt := Options{
		Platform:      amd64,
		BuildPlatform: amd64,
		BuildArgs:     map[string]string{},
		Labels:        map[string]string{},
		NamedContexts: map[string]Context{},
		Resolve:       fakeResolve,
	}
	for line := range strings.Lines(text) {
		setting, ok := strings.CutPrefix(line, "#opt: ")
		if !ok {
			continue
		}
		key, value, _ := strings.Cut(strings.TrimRight(setting, "\n"), " ")
		name, rest, _ := strings.Cut(value, "=")
		switch key {
		case "target":
			opt.Target = value
		case "platform":
			opt.Platform = platforms.Normalize(platforms.MustParse(value))
		case "implied":
			opt.PlatformImplied = true
		case "arg":
			opt.BuildArgs[name] = rest
		case "label":
			opt.Labels[name] = rest
		case "no-cache":
			opt.NoCache = true
		case "no-cache-filter":
			opt.NoCacheFilter = append(opt.NoCacheFilter, value)
		case "network":
			opt.Network = llb.Network(value)
		case "allow":
			opt.AllowHostNetwork = value == "network.host"
			opt.AllowInsecure = value == "security.insecure"
		case "hostname":
			opt.Hostname = value
		case "host":
			opt.Hosts = append(opt.Hosts, llb.Host{Name: name, IP: rest})
		case "ignore":
			opt.Ignore = append(opt.Ignore, value)
		case "context-dir":
			opt.NamedContexts[name] = Context{Local: rest, Exclude: []string{"*.tmp"}}
		case "context-image":
			opt.NamedContexts[name] = Context{Image: func(ctx context.Context, p ocispec.Platform) (*Image, error) {
				return fakeResolve(ctx, rest, p)
			}}
		default:
			t.Fatalf("unknown option %q", key)
		}
	}
	return opt
}

// fakeResolve knows an image by its last name: busybox, and a few that are special.
func fakeResolve(_ context.Context, ref string, p ocispec.Platform) (*Image, error) {
	name, _, _ := strings.Cut(filepath.Base(ref), ":")
	if name == "missing" {
		return nil, fmt.Errorf("%s: not found", name)
	}
	img := &Image{
		Ref:    ref + "@" + digest.Of([]byte(ref)).String(),
		Layers: []digest.Digest{digest.Of([]byte(name))},
	}
	img.Config.Platform = p
	img.Config.Config.Env = []string{"BASEVAR=base"}
	img.Config.Config.Cmd = []string{"sh"}
	img.Config.History = []ocispec.History{{CreatedBy: "base of " + name}}
	c := &img.Config.Config
	switch name {
	case "onbuild":
		c.OnBuild = []string{"RUN echo trigger", "COPY --from=tools /t /t"}
	case "configured":
		c.User, c.WorkingDir, c.Shell = "app", "/srv/", []string{"/bin/ash", "-c"}
		c.Entrypoint, c.Labels = []string{"/init"}, map[string]string{"from": "base"}
		c.Env = []string{"PATH=/opt/bin", "BASEVAR=base"}
	case "versioned":
		img.Config.OSVersion, img.Config.OSFeatures = "10.0.26100", []string{"feature"}
	case "arm":
		img.Config.Architecture = "arm64"
	case "broken":
		c.OnBuild = []string{"RUN --divice=vendor.com/gpu true"}
	}
	return img, nil
}
