package lower

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/buildkit/util/system"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/internal/reference"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// scratch is the name of the empty image.
const scratch = "scratch"

// readFrom expands the words of FROM and finds what it names among the stages above.
func (s *stage) readFrom() error {
	word, err := s.expandFrom(s.from.BaseName)
	if err != nil {
		return err
	}
	if s.base = word.Result; s.base == "" {
		return fmt.Errorf("base name (%s) should not be blank", s.from.BaseName)
	}
	if err := s.readPlatform(); err != nil {
		return err
	}
	if s.from.Name != "" {
		s.context = s.namedContext(s.from.Name, s.platform)
	}
	if s.context == nil {
		s.parent = s.byName[s.base]
	}
	return nil
}

// expandFrom expands a word of FROM: only arguments before the first FROM count.
func (s *stage) expandFrom(text string) (shell.ProcessWordResult, error) {
	word, err := s.expandWord(s.lex, text, s.globals)
	if err != nil {
		return word, err
	}
	s.lintFromWord(word)
	s.use(word.Matched)
	return word, nil
}

func (s *stage) readPlatform() error {
	if s.from.Platform == "" {
		return nil
	}
	word, err := s.expandFrom(s.from.Platform)
	if err != nil {
		return err
	}
	s.lintPlatform(word)
	p, err := platforms.Parse(word.Result)
	switch {
	case word.Result == "":
		err = fmt.Errorf("empty platform value from expression %s", s.from.Platform)
	case err != nil:
		err = fmt.Errorf("failed to parse platform %s: %w", s.from.Platform, err)
	}
	if err != nil {
		for _, name := range slices.Sorted(maps.Keys(word.Unmatched)) {
			err = suggest.WrapError(err, name, s.globals.Keys(), true)
		}
		return err
	}
	s.platform = p
	return nil
}

// An imageKey names an image: by its reference, or by the --build-context that is it.
type imageKey struct {
	name     string
	context  bool
	platform string
}

// found is the answer for an imageKey; a nil image stands for a folder.
type found struct {
	image   *Image
	context *Context
}

// resolve asks for the images that target needs and returns the stages it
// needs. The triggers of an image may name further stages, so it asks until
// there are no new ones.
func (l *lowering) resolve(ctx context.Context, target *stage) (map[*stage]bool, error) {
	for {
		reached := l.reach(target)
		if err := l.askImages(ctx, reached); err != nil {
			return nil, err
		}
		more := false
		for _, s := range slices.Clone(l.stages) {
			if !reached[s] || s.expanded {
				continue
			}
			s.expanded = true
			linked, err := s.addTriggers()
			if err != nil {
				return nil, err
			}
			more = more || linked
		}
		if !more {
			return reached, nil
		}
	}
}

// askImages finds the images of the stages in reach, all at once.
func (l *lowering) askImages(ctx context.Context, reached map[*stage]bool) error {
	var asks []func(context.Context) error
	for _, s := range l.stages {
		if s.asked || s.parent != nil {
			continue
		}
		key, c, err := s.imageKey() // a bad name is an error wherever it stands
		if err != nil {
			asks = append(asks, func(context.Context) error { return err })
			break
		}
		if !reached[s] {
			continue
		}
		s.asked = true
		if s.base == scratch && s.context == nil {
			continue
		}
		if s.found = l.finds[key]; s.found != nil {
			continue
		}
		answer := &found{context: c}
		s.found, l.finds[key] = answer, answer
		if c != nil && c.Image == nil {
			continue
		}
		asks = append(asks, func(ctx context.Context) (err error) {
			answer.image, err = s.ask(ctx, key.name, c)
			return err
		})
	}
	if err := atOnce(ctx, asks); err != nil {
		return err
	}
	return l.finishImages()
}

// atOnce makes the calls at the same time, and returns the first error. One alone, as for most Dockerfiles, needs no goroutine: to start a
// thread for it takes longer than to find an image that is here.
func atOnce(ctx context.Context, calls []func(context.Context) error) error {
	if len(calls) == 1 {
		return calls[0](ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, call := range calls {
		group.Go(func() error { return call(ctx) })
	}
	return group.Wait()
}

// imageKey tells which image the stage starts from, and the named context that provides it.
func (s *stage) imageKey() (imageKey, *Context, error) {
	platform := platforms.FormatAll(platforms.Normalize(s.platform))
	if s.context != nil {
		return imageKey{s.from.Name, true, platform}, s.context, nil
	}
	named, err := reference.Parse(s.base)
	if err != nil {
		hint := ""
		if lower := strings.ToLower(s.base); s.byName[lower] != nil {
			hint = fmt.Sprintf("FROM knows the stage as %s, in lower case", lower)
		}
		return imageKey{}, nil, s.fromError(fmt.Errorf("image name %q: %w", s.base, err), hint)
	}
	if c := s.namedContext(s.base, s.platform); c != nil {
		name, _ := contextName(s.base)
		return imageKey{name, true, platform}, c, nil
	}
	return imageKey{named.Tagged().String(), false, platform}, nil, nil
}

// ask finds one image.
func (s *stage) ask(ctx context.Context, name string, c *Context) (*Image, error) {
	var img *Image
	var err error
	if c != nil {
		img, err = c.Image(ctx, s.platform)
	} else {
		img, err = s.opt.Resolve(ctx, name, s.platform)
	}
	if err != nil {
		return nil, s.fromError(err, s.suggestBase()) // which names the image
	}
	return img, nil
}

// suggestBase returns what the one may have meant who wrote the name of a base that is not there.
func (s *stage) suggestBase() string {
	if near, ok := suggest.Search(s.base, s.stageNames(), true); ok {
		return "did you mean the stage " + near + "?"
	}
	common := []string{"alpine", "busybox", "debian", "fedora", "golang", "nginx", "node", "python", "ubuntu"}
	name, tag, _ := strings.Cut(s.base, ":")
	if near, ok := suggest.Search(name, common, true); ok {
		return fmt.Sprintf("did you mean %s?", strings.TrimSuffix(near+":"+tag, ":"))
	}
	return ""
}

// fromError puts err at the FROM of the stage.
func (s *stage) fromError(err error, hint string) error {
	p := s.position(s.from.Location)
	return &parser.Error{File: p.File, Start: p.Start, End: p.End, Msg: err.Error(), Hint: hint, Err: err}
}

// finishImages starts the stages that have no instructions of their own.
func (l *lowering) finishImages() error {
	for _, s := range l.stages {
		if s.asked && !s.done && (s.isImage || s.context != nil) {
			if err := s.start(); err != nil {
				return l.file.At(s.from.Location, err)
			}
			s.image.Config.OnBuild = nil
			s.done = true
		}
	}
	return nil
}

// start sets the state before the first instruction.
func (s *stage) start() error {
	switch {
	case s.parent != nil:
		s.inherit(s.parent)
	case s.found == nil:
		s.root, s.image, s.env = s.scratch, emptyImage(s.opt.Platform), newEnvironment()
	case s.found.image == nil:
		s.startFolder(s.found.context)
	default:
		s.startImage(s.found.image)
	}
	s.image.Config.OnBuild = nil
	return s.readConfig()
}

// inherit continues where another stage ended, arguments included.
func (s *stage) inherit(p *stage) {
	s.root, s.image, s.env = p.root, cloneImage(p.image), p.env.clone()
	s.baseLayers, s.baseHistory = p.baseLayers, p.baseHistory
	s.args = slices.Clone(p.args)
	s.platform, s.workdirSet = p.platform, p.workdirSet
}

func (s *stage) startImage(img *Image) {
	s.image = cloneImage(img.Config)
	s.image.Created = nil
	s.baseLayers, s.baseHistory = len(img.Layers), len(img.Config.History)
	s.env = newEnvironment()
	if s.root = s.scratch; len(img.Layers) > 0 {
		ref := img.Ref
		if ref == "" {
			ref = s.base
		}
		s.root = llb.New(&llb.Image{Layers: img.Layers, Ref: img.Ref}, nil, llb.Meta{
			Label: s.label("FROM " + ref),
			Pos:   s.position(s.from.Location),
		})
	}
	s.warnPlatform(img.Config.Platform)
}

// startFolder starts from the files of a folder, here or elsewhere. They are one layer, which
// the history must account for.
func (s *stage) startFolder(c *Context) {
	folder := c.Source
	if folder == nil {
		folder = s.localContext(c.Local, c.Exclude, fmt.Sprintf("[context %s] load files", c.Local))
	}
	if s.context != nil || s.isImage {
		s.folder = folder
	}
	s.image, s.env = emptyImage(s.platform), newEnvironment()
	s.root = llb.New(&llb.File{Actions: []llb.Action{&llb.Copy{
		From: 1, Sources: []llb.Source{{Path: "/"}}, Dest: "/",
	}}}, []*llb.Vertex{s.scratch, folder}, llb.Meta{
		Label: s.label("FROM " + s.base),
		Pos:   s.position(s.from.Location),
	})
	s.record("FROM "+s.base+" # buildkit", true)
}

// readConfig brings the state in line with the config that the stage starts from.
func (s *stage) readConfig() error {
	cfg := &s.image.Config
	if !slices.ContainsFunc(cfg.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		cfg.Env = append(cfg.Env, "PATH="+system.DefaultPathEnvUnix)
	}
	for _, kv := range cfg.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.env.set(k, v)
	}
	if cfg.WorkingDir == "" {
		return nil
	}
	wd, err := system.NormalizeWorkdir("/", cfg.WorkingDir, "linux")
	cfg.WorkingDir = wd
	return err
}

func (s *stage) warnPlatform(have ocispec.Platform) {
	want := s.platform
	if s.context != nil || (want.OS == have.OS && want.Architecture == have.Architecture) {
		return
	}
	rule := &linter.RuleInvalidBaseImagePlatform
	s.warnFrom(rule, rule.Format(s.base, platforms.FormatAll(platforms.Normalize(want)), platforms.FormatAll(platforms.Normalize(have))))
}

// emptyImage returns the config of scratch.
func emptyImage(p ocispec.Platform) dockerspec.DockerOCIImage {
	var img dockerspec.DockerOCIImage
	img.Platform = p
	img.Platform.OSFeatures = slices.Clone(p.OSFeatures)
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	img.Config.Env = []string{"PATH=" + system.DefaultPathEnvUnix}
	return img
}

// cloneImage copies what instructions change in place: a base is shared by its children.
func cloneImage(img dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	c := &img.Config
	c.Env = slices.Clone(c.Env)
	c.Cmd = slices.Clone(c.Cmd)
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.OnBuild = slices.Clone(c.OnBuild)
	c.Shell = slices.Clone(c.Shell)
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	img.History = slices.Clone(img.History)
	return img
}
