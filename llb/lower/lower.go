// Package lower says what the words of a Dockerfile mean: stages become
// vertices of the graph, and ENV, WORKDIR and their like fold into operations
// and the config of the image. There is one file per instruction.
//
// It follows BuildKit to the byte of the config. What it must know of an image
// it asks through a function it is handed; how anything runs it does not know.
package lower

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// An Image is what FROM and COPY --from need to know of an image.
type Image struct {
	// Ref is the pinned reference, like "docker.io/library/debian:12@sha256:...". It
	// may be empty for an image that needs no fetching.
	Ref string
	// Layers are the diff IDs, lowest first; an image without any is scratch.
	Layers []digest.Digest
	Config dockerspec.DockerOCIImage
}

// A Context is what --build-context puts in the place of the stage or the
// image of a name: a folder if Local is set, or else an image.
type Context struct {
	// Local is the name of the folder, as in llb.Local.
	Local string
	// Exclude holds the patterns of the folder's own .dockerignore.
	Exclude []string
	// Image finds the image. It is called at most once per platform, and only
	// if the build reaches the context.
	Image func(ctx context.Context, p ocispec.Platform) (*Image, error)
}

// Options are the choices of a build that its Dockerfile does not make.
type Options struct {
	// Target is the stage to build; "" is the last one.
	Target string
	// Platform is what is built, BuildPlatform where; both normalised.
	Platform, BuildPlatform ocispec.Platform
	// BuildArgs holds the values of --build-arg. An argument without a value is left out.
	BuildArgs map[string]string
	// Epoch, when not nil, is SOURCE_DATE_EPOCH: the time of what WORKDIR makes.
	Epoch *time.Time
	// Labels are added to those of LABEL, and win.
	Labels map[string]string
	// Hosts, Network and Hostname are what every RUN sees; the zero Network is the default one.
	Hosts    []llb.Host
	Network  llb.Network
	Hostname string
	// Security is what every RUN may do.
	Security llb.Security
	// AllowHostNetwork lets a RUN ask for the network of the host, AllowInsecure for --security=insecure.
	AllowHostNetwork, AllowInsecure bool
	// NoCache runs every step anew, NoCacheFilter those of the stages it names.
	NoCache       bool
	NoCacheFilter []string
	// Ignore holds the patterns of the main context's .dockerignore.
	Ignore []string
	// NamedContexts stand in for the stages and images of their names; a name
	// with the tag latest is the one without a tag.
	NamedContexts map[string]Context
	// Resolve finds an image by its full name. It is called at most once per
	// name and platform, in parallel, and only for images that the build reaches.
	// Its errors name the image.
	Resolve func(ctx context.Context, ref string, p ocispec.Platform) (*Image, error)
}

// A Result is the meaning of a Dockerfile for one target and one platform.
type Result struct {
	// Root is the target's root file system.
	Root *llb.Vertex
	// Config is complete but for what only the build can tell: the diff IDs,
	// the creation time, and the times of the history entries that are new.
	Config dockerspec.DockerOCIImage
	// BaseLayers is the number of layers that came with the base image.
	BaseLayers int
	// BaseHistory is the number of history entries that came with it; they keep their times.
	BaseHistory int
	Warnings    []parser.Warning
}

// Lower returns what f means under opt. Errors about the text are of type
// *parser.Error.
func Lower(ctx context.Context, f *parser.File, opt Options) (*Result, error) {
	l, err := newLowering(f, opt)
	if err != nil {
		return nil, err
	}
	if err := l.addStages(); err != nil {
		return nil, err
	}
	target, err := l.target()
	if err != nil {
		return nil, err
	}
	if err := l.link(); err != nil {
		return nil, err
	}
	reached, err := l.resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	for _, s := range l.stages {
		if reached[s] && !s.done {
			if err := s.fold(); err != nil {
				return nil, err
			}
		}
	}
	if err := f.LintError(l.lint, l.warnings); err != nil {
		return nil, err
	}
	return l.result(target), nil
}

// A lowering is one call of Lower.
type lowering struct {
	file     *parser.File
	opt      Options
	lex      *shell.Lex
	lint     *linter.Linter
	warnings []parser.Warning

	globals  *environment       // predefined arguments and the ARGs before the first FROM
	proxy    []string           // the proxy variables that every RUN sees
	contexts map[string]Context // opt.NamedContexts by normalised name

	stages []*stage            // as written, followed by the images of COPY --from
	byName map[string]*stage   // by lower-case name; of two the last
	images map[string]*stage   // the stages that stand for the images of COPY --from
	finds  map[imageKey]*found // images asked for

	scratch *llb.Vertex
	folders map[string]*llb.Vertex // local contexts in use
}

func newLowering(f *parser.File, opt Options) (*lowering, error) {
	l := &lowering{
		file:     f,
		opt:      opt,
		lex:      shell.NewLex(f.Escape),
		proxy:    proxyVariables(opt.BuildArgs),
		contexts: map[string]Context{},
		byName:   map[string]*stage{},
		images:   map[string]*stage{},
		finds:    map[imageKey]*found{},
		scratch:  llb.New(&llb.Image{}, nil, llb.Meta{Label: "FROM scratch"}),
		folders:  map[string]*llb.Vertex{},
	}
	if l.opt.Network == "" {
		l.opt.Network = llb.NetworkDefault
	}
	for name, c := range opt.NamedContexts {
		key, ok := contextName(name)
		if !ok {
			return nil, fmt.Errorf("invalid context name %q", name)
		}
		l.contexts[key] = c
	}
	var err error
	l.lint, err = f.Linter(func(w parser.Warning) { l.warnings = append(l.warnings, w) })
	if err != nil {
		return nil, err
	}
	l.globals = l.predefined()
	return l, l.addGlobals()
}

// namedContext returns the --build-context that stands in for name, if any.
func (l *lowering) namedContext(name string) *Context {
	if strings.EqualFold(name, "scratch") || strings.EqualFold(name, "context") {
		return nil // reserved
	}
	if key, ok := contextName(name); ok {
		if c, ok := l.contexts[key]; ok {
			return &c
		}
	}
	return nil
}

// contextName returns the shortest way to say name: "docker.io/library/img:latest" is "img".
func contextName(name string) (string, bool) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", false
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), true
}

// localContext returns the vertex of a local context, the same one each time.
func (l *lowering) localContext(name string, exclude []string, label string) *llb.Vertex {
	v, ok := l.folders[name]
	if !ok {
		v = llb.New(&llb.Local{Name: name, Exclude: exclude}, nil, llb.Meta{Label: label})
		l.folders[name] = v
	}
	return v
}

func (l *lowering) mainContext() *llb.Vertex {
	return l.localContext("context", l.opt.Ignore, "[internal] load build context")
}

// epoch returns the time that what steps make gets, or nil.
func (l *lowering) epoch() *int64 {
	if l.opt.Epoch == nil {
		return nil
	}
	seconds := l.opt.Epoch.Unix()
	return &seconds
}

func (l *lowering) position(loc []dfparser.Range) llb.Position {
	p := llb.Position{File: l.file.Name}
	for i, r := range loc {
		if i == 0 || r.Start.Line < p.Start {
			p.Start = r.Start.Line
		}
		p.End = max(p.End, r.End.Line)
	}
	return p
}

func (l *lowering) result(target *stage) *Result {
	img := cloneImage(target.image)
	if len(l.opt.Labels) > 0 {
		if img.Config.Labels == nil {
			img.Config.Labels = map[string]string{}
		}
		maps.Copy(img.Config.Labels, l.opt.Labels)
	}
	setPlatform(&img.Platform, l.opt.Platform)
	img.Created = nil
	img.RootFS = ocispec.RootFS{Type: "layers"}
	return &Result{
		Root:        target.root,
		Config:      img,
		BaseLayers:  target.baseLayers,
		BaseHistory: target.baseHistory,
		Warnings:    slices.Clip(l.warnings),
	}
}

// setPlatform makes p the target platform, whatever the base was made for. The
// base's variant and OS version stand if the target leaves them open.
func setPlatform(p *ocispec.Platform, target ocispec.Platform) {
	same := p.OS == target.OS && p.Architecture == target.Architecture
	p.OS, p.Architecture = target.OS, target.Architecture
	if target.Variant != "" || !same {
		p.Variant = target.Variant
	}
	if target.OSVersion != "" || !same {
		p.OSVersion = target.OSVersion
	}
	if target.OSFeatures != nil {
		p.OSFeatures = slices.Clone(target.OSFeatures)
	}
	*p = platforms.Normalize(*p)
}
