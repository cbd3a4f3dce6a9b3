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
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/reference"
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
// image of a name: a folder if Local is set, files that lie elsewhere if Source is, or else an image.
type Context struct {
	// Source has the files, which are all of its root.
	Source *llb.Vertex
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
	// PlatformImplied says that nobody asked for Platform: the image is then for the platform of its base, whatever that is.
	PlatformImplied bool
	// ShowPlatform puts the platform into the names of steps, for builds of several.
	ShowPlatform bool
	// BuildArgs holds the values of --build-arg. An argument without a value is left out.
	BuildArgs map[string]string
	// Epoch, when not nil, is SOURCE_DATE_EPOCH: the time of what WORKDIR makes. The Dockerfile can set it, too.
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
	// Device returns the devices that a RUN gets which asks for some: they may have another name here. Its errors are about those
	// that are not there, or not for this build. It is called by several at once; nil gives none.
	Device func(llb.Device) (llb.Device, error)
	// NoCache runs every step anew, NoCacheFilter those of the stages it names.
	NoCache       bool
	NoCacheFilter []string
	// Context is the main context; nil is the folder called "context".
	Context *llb.Vertex
	// Ignore holds the patterns of the main context's .dockerignore, when it is a folder.
	Ignore []string
	// NamedContexts stand in for the stages and images of their names; a name
	// with the tag latest is the one without a tag. "NAME::PLATFORM" does so on that platform, where it wins.
	NamedContexts map[string]Context
	// Resolve finds an image by its full name. It is called at most once per
	// name and platform, in parallel, and only for images that the build reaches.
	// Its errors name the image.
	Resolve func(ctx context.Context, ref string, p ocispec.Platform) (*Image, error)
	// SourceTime returns the time of a source that lies elsewhere, nil when it has none. SOURCE_DATE_EPOCH may ask for it.
	SourceTime func(ctx context.Context, source *llb.Vertex) (*time.Time, error)
}

// described returns the options of who describes a Dockerfile, without a build that would have to be allowed something.
func (o Options) described() Options {
	o.AllowHostNetwork, o.AllowInsecure = true, true
	o.Device = func(d llb.Device) (llb.Device, error) { return d, nil }
	return o
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
	// Epoch is the time that the image is to have, or nil.
	Epoch    *time.Time
	Warnings []parser.Warning
}

// Lower returns what f means under opt. Errors about the text are of type
// *parser.Error.
func Lower(ctx context.Context, f *parser.File, opt Options) (*Result, error) {
	l, err := newLowering(ctx, f, opt)
	if err != nil {
		return nil, err
	}
	target, err := l.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.CheckWarnings(l.warnings); err != nil {
		return nil, err
	}
	return l.result(target), nil
}

// Check returns the warnings about f, also when there is an error. Without a target in opt it looks at all stages.
func Check(ctx context.Context, f *parser.File, opt Options) ([]parser.Warning, error) {
	l, err := newLowering(ctx, f, opt.described())
	if err != nil {
		return f.Warnings, err
	}
	l.all = opt.Target == ""
	if _, err = l.run(ctx); err == nil {
		err = f.CheckWarnings(l.warnings)
	}
	return slices.Concat(f.Warnings, l.warnings), err
}

// run lowers the stages in reach and returns the target.
func (l *lowering) run(ctx context.Context) (*stage, error) {
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
	return target, nil
}

// A lowering is one call of Lower.
type lowering struct {
	file     *parser.File
	opt      Options
	lex      *shell.Lex
	lint     *linter.Linter
	warnings []parser.Warning

	all   bool         // every stage is in reach
	grown atomic.Int64 // how much longer expanding has made texts

	globals    *environment          // predefined arguments and the ARGs before the first FROM
	globalArgs map[string]OutlineArg // the ARGs before the first FROM
	proxy      []string              // the proxy variables that every RUN sees
	contexts   map[string]Context    // opt.NamedContexts by normalised name

	stages []*stage            // as written, followed by the images of COPY --from
	byName map[string]*stage   // by lower-case name; of two the last
	images map[string]*stage   // the stages that stand for the images of COPY --from
	finds  map[imageKey]*found // images asked for

	scratch *llb.Vertex
	folders map[string]*llb.Vertex // local contexts in use
}

func newLowering(ctx context.Context, f *parser.File, opt Options) (*lowering, error) {
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
		name, platform, only := strings.Cut(name, "::")
		key, ok := contextName(name)
		if only {
			p, err := platforms.Parse(platform)
			key, ok = platformKey(key, p), ok && err == nil
		}
		if !ok {
			return nil, &parser.Error{Msg: fmt.Sprintf("invalid context name %q", name), Hint: "it is the name of a stage or an image, in lower case"}
		}
		l.contexts[key] = c
	}
	l.lint = f.Linter(func(w parser.Warning) { l.warnings = append(l.warnings, w) })
	l.lintNames()
	l.lintCasing()
	l.globals, l.globalArgs = l.predefined(), map[string]OutlineArg{}
	l.lintDefaults()
	if err := l.addGlobals(); err != nil {
		return l, err
	}
	return l, l.readEpoch(ctx)
}

// platformKey names the context that stands in for name on one platform only.
func platformKey(name string, p ocispec.Platform) string {
	return name + "::" + platforms.FormatAll(platforms.Normalize(p))
}

// namedContext returns the --build-context that stands in for name on platform p, if any.
func (l *lowering) namedContext(name string, p ocispec.Platform) *Context {
	if strings.EqualFold(name, "scratch") || strings.EqualFold(name, "context") {
		return nil // reserved
	}
	if key, ok := contextName(name); ok {
		for _, key := range []string{platformKey(key, p), key} {
			if c, ok := l.contexts[key]; ok {
				return &c
			}
		}
	}
	return nil
}

// contextName returns the shortest way to say name: "docker.io/library/img:latest" is "img".
func contextName(name string) (string, bool) {
	named, err := reference.Parse(name)
	if err != nil {
		return "", false
	}
	return strings.TrimSuffix(named.Familiar(), ":latest"), true
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
	if l.opt.Context != nil {
		return l.opt.Context
	}
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
	if !l.opt.PlatformImplied {
		setPlatform(&img.Platform, l.opt.Platform)
	}
	img.Platform = platforms.Normalize(img.Platform)
	img.Created = nil
	img.RootFS = ocispec.RootFS{Type: "layers"}
	return &Result{
		Root:        target.root,
		Config:      img,
		BaseLayers:  target.baseLayers,
		BaseHistory: target.baseHistory,
		Epoch:       l.opt.Epoch,
		Warnings:    slices.Clip(l.warnings),
	}
}

// setPlatform makes p the target platform, which was asked for, whatever the base was made for. The
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
}
