package lower

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// A stage is a FROM with its instructions, or an image that COPY --from names.
// The plan is made first, for all stages; the state is folded for those that
// the target needs, in the order of the file.
type stage struct {
	*lowering

	// The plan.
	from     instructions.Stage
	name     string   // for people; empty if it is the only one
	base     string   // the name after FROM, expanded
	parent   *stage   // the stage that base names, or nil
	context  *Context // the --build-context that stands in for the whole stage, or nil
	isImage  bool     // not written: stands for the image of a COPY --from
	platform ocispec.Platform
	commands []command
	sources  []*stage // what COPY --from and RUN --mount=from= read
	noCache  bool

	asked    bool   // for the base image
	found    *found // the base image; nil for scratch
	expanded bool   // the triggers are in commands

	// The state.
	done        bool
	root        *llb.Vertex
	folder      *llb.Vertex // the local context that is all of root, or nil: COPY reads it in place
	image       dockerspec.DockerOCIImage
	baseLayers  int
	baseHistory int
	env         *environment                        // what RUN and expansion see: ENV and ARG, the later line winning
	args        []instructions.KeyValuePairOptional // declared so far
	once        map[string][]dfparser.Range         // CMD, ENTRYPOINT and HEALTHCHECK: where this stage has them
	workdirSet  bool                                // by a WORKDIR of this stage or its parents
	steps       int                                 // labelled so far
	current     command

	// The outline: arguments by name, and what else can be given.
	used    map[string]bool
	ownArgs map[string]OutlineArg
	wanted  []want
}

// A command is an instruction of a stage.
type command struct {
	instructions.Command
	sources []*stage // of COPY --from the one, of RUN one per mount, which is nil without from
	trigger bool     // comes from an ONBUILD of the base
}

// addStages makes a stage of every FROM, each knowing its parent.
func (l *lowering) addStages() error {
	for i, from := range l.file.Stages {
		s := &stage{lowering: l, from: from, name: from.Name, platform: l.opt.Platform}
		if s.name == "" {
			s.name = fmt.Sprintf("stage-%d", i)
		}
		if err := s.readFrom(); err != nil {
			return l.file.At(from.Location, err)
		}
		for _, c := range from.Commands {
			s.commands = append(s.commands, command{Command: c})
		}
		s.noCache = l.opt.NoCache || slices.ContainsFunc(l.opt.NoCacheFilter, func(name string) bool {
			return from.Name != "" && strings.EqualFold(name, from.Name)
		})
		l.stages = append(l.stages, s)
		if from.Name != "" {
			l.byName[from.Name] = s
		}
	}
	return nil
}

// target returns the stage that is built.
func (l *lowering) target() (*stage, error) {
	name := l.opt.Target
	if name == "" {
		return l.stages[len(l.stages)-1], nil
	}
	if s, ok := l.byName[strings.ToLower(name)]; ok {
		return s, nil
	}
	err := fmt.Errorf("target stage %q could not be found", name)
	err = suggest.WrapError(err, name, l.stageNames(), true)
	return nil, &parser.Error{Msg: err.Error(), Err: err}
}

func (l *lowering) stageNames() []string {
	var names []string
	for _, s := range l.stages {
		if s.from.Name != "" {
			names = append(names, s.from.Name)
		}
	}
	return names
}

// link connects every COPY --from and RUN --mount=from= with its stage. Stages out of reach are
// linked as well: a bad reference is an error wherever it stands.
func (l *lowering) link() error {
	written := len(l.stages)
	for _, s := range l.stages[:written] {
		for i := range s.commands {
			if err := s.linkCommand(&s.commands[i]); err != nil {
				return l.file.At(s.commands[i].Location(), err)
			}
		}
	}
	if s, loc := findCycle(l.stages); s != nil {
		return l.file.At(loc, fmt.Errorf("circular dependency detected on stage: %s", s.name))
	}
	if len(l.stages) == 1 {
		l.stages[0].name = ""
	}
	return nil
}

// linkCommand finds the sources of c, an instruction of the stage or a trigger.
func (s *stage) linkCommand(c *command) error {
	switch cmd := c.Command.(type) {
	case *instructions.CopyCommand:
		if cmd.From == "" {
			return nil
		}
		word, err := s.lex.ProcessWordWithMatches(cmd.From, shell.EnvsFromSlice(nil))
		if err != nil {
			return err
		}
		if word.Result != cmd.From {
			return errors.New("variable expansion is not supported for --from, " +
				"define a new stage with FROM using ARG from global scope as a workaround")
		}
		if i, err := strconv.Atoi(cmd.From); err == nil {
			if i < 0 || i >= len(s.file.Stages) {
				return fmt.Errorf("invalid stage index %d", i)
			}
			c.sources = []*stage{s.stages[i]}
		} else {
			c.sources = []*stage{s.findSource(cmd.From, c.Location())}
		}
	case *instructions.RunCommand:
		mounts, err := readMounts(cmd, nil)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			var source *stage
			if m.From != "" {
				source = s.findSource(m.From, c.Location())
			}
			c.sources = append(c.sources, source)
		}
	}
	for _, source := range c.sources {
		if source != nil {
			s.sources = append(s.sources, source)
		}
	}
	return nil
}

// findSource returns the stage of that name, or one for the image of that name.
func (l *lowering) findSource(name string, loc []dfparser.Range) *stage {
	if s, ok := l.byName[strings.ToLower(name)]; ok {
		return s
	}
	s, ok := l.images[name]
	if !ok {
		s = &stage{lowering: l, base: name, isImage: true, platform: l.opt.Platform,
			from: instructions.Stage{BaseName: name, Location: loc}}
		l.images[name] = s
		l.stages = append(l.stages, s)
	}
	return s
}

// findCycle returns a stage that, through COPY or RUN --mount, needs itself, and the
// instruction that closes the circle. A FROM cannot: it only looks back.
func findCycle(stages []*stage) (*stage, []dfparser.Range) {
	const (
		entered = 1
		left    = 2
	)
	seen := map[*stage]int{}
	var visit func(s *stage) (*stage, []dfparser.Range)
	visit = func(s *stage) (*stage, []dfparser.Range) {
		seen[s] = entered
		for _, c := range s.commands {
			for _, source := range c.sources {
				if source == nil || seen[source] == left {
					continue
				}
				if seen[source] == entered {
					return source, c.Location()
				}
				if found, loc := visit(source); found != nil {
					return found, loc
				}
			}
		}
		seen[s] = left
		return nil, nil
	}
	for _, s := range stages {
		if seen[s] == 0 {
			if found, loc := visit(s); found != nil {
				return found, loc
			}
		}
	}
	return nil, nil
}

// reach returns all stages that s needs, itself included.
func (l *lowering) reach(s *stage) map[*stage]bool {
	reached := map[*stage]bool{}
	var visit func(s *stage)
	visit = func(s *stage) {
		if reached[s] {
			return
		}
		reached[s] = true
		if s.parent != nil {
			visit(s.parent)
		}
		if s.context != nil {
			return // its instructions do not count
		}
		for _, source := range s.sources {
			visit(source)
		}
	}
	visit(s)
	if l.all {
		for _, s := range l.stages {
			visit(s)
		}
	}
	return reached
}

// fold reads the instructions of the stage, in order, into its state.
func (s *stage) fold() error {
	if err := s.start(); err != nil {
		return s.file.At(s.from.Location, err)
	}
	for _, c := range s.commands {
		s.current = c
		if err := s.apply(c.Command); err != nil {
			return s.file.At(c.Location(), err)
		}
	}
	s.done = true
	return nil
}

func (s *stage) apply(cmd instructions.Command) error {
	switch c := cmd.(type) {
	case *instructions.AddCommand:
		return s.applyAdd(c)
	case *instructions.ArgCommand:
		return s.applyArg(c)
	case *instructions.CmdCommand:
		return s.applyCmd(c)
	case *instructions.CopyCommand:
		return s.applyCopy(c)
	case *instructions.EntrypointCommand:
		return s.applyEntrypoint(c)
	case *instructions.EnvCommand:
		return s.applyEnv(c)
	case *instructions.ExposeCommand:
		return s.applyExpose(c)
	case *instructions.HealthCheckCommand:
		return s.applyHealthcheck(c)
	case *instructions.LabelCommand:
		return s.applyLabel(c)
	case *instructions.MaintainerCommand:
		return s.applyMaintainer(c)
	case *instructions.OnbuildCommand:
		return s.applyOnbuild(c)
	case *instructions.RunCommand:
		return s.applyRun(c)
	case *instructions.ShellCommand:
		return s.applyShell(c)
	case *instructions.StopSignalCommand:
		return s.applyStopSignal(c)
	case *instructions.UserCommand:
		return s.applyUser(c)
	case *instructions.VolumeCommand:
		return s.applyVolume(c)
	case *instructions.WorkdirCommand:
		return s.applyWorkdir(c)
	}
	return fmt.Errorf("%s is not supported by this version", strings.ToUpper(cmd.Name()))
}

// step puts a vertex on top of the root, the instruction at hand being text.
func (s *stage) step(op llb.Op, text string, inputs ...*llb.Vertex) {
	s.root = llb.New(op, append([]*llb.Vertex{s.root}, inputs...), llb.Meta{
		Label:   s.label(text),
		Pos:     s.position(s.current.Location()),
		NoCache: s.noCache,
	})
}

// label numbers the next step: "[build 2/5] RUN make".
func (s *stage) label(text string) string {
	if s.context != nil {
		return fmt.Sprintf("[context %s] %s", s.name, text)
	}
	total := s.countSteps()
	if total == 0 {
		return text
	}
	name := s.name
	if name != "" {
		name += " "
	}
	name = s.showPlatform() + name
	s.steps++
	if s.current.trigger {
		text = "ONBUILD " + text
	}
	width := 1 + int(math.Log10(float64(total)))
	return fmt.Sprintf("[%s%*d/%d] %s", name, width, s.steps, total, text)
}

// showPlatform returns the platform of the stage for its name, "linux/amd64->arm64 " where it is told to build for another.
func (s *stage) showPlatform() string {
	if !s.opt.ShowPlatform {
		return ""
	}
	own := platforms.FormatAll(platforms.Normalize(s.platform))
	_, arch := s.env.Get("TARGETARCH")
	_, platform := s.env.Get("TARGETPLATFORM")
	if target := platforms.FormatAll(s.opt.Platform); (arch || platform) && target != own {
		if s.opt.Platform.OS == s.platform.OS {
			_, target, _ = strings.Cut(target, "/")
		}
		own += "->" + target
	}
	return own + " "
}

// countSteps counts the FROM of an image and what may make a layer. WORKDIR / makes
// none, but that only shows when it is expanded.
func (s *stage) countSteps() int {
	n := 0
	if s.parent == nil && s.base != scratch && !s.isImage {
		n++
	}
	for _, c := range s.commands {
		switch c.Command.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			n++
		}
	}
	return n
}

// describe returns the text of the instruction at hand for people, its variables expanded.
func (s *stage) describe(text string, lex *shell.Lex, env *environment) string {
	if expanded, err := s.expandWord(lex, text, env); err == nil {
		text = expanded.Result
	}
	name, rest, _ := strings.Cut(text, " ")
	return strings.TrimSpace(strings.ToUpper(name) + " " + rest)
}

// record adds the instruction at hand to the history. It is counted: each RUN repeats all arguments there, each WORKDIR the whole path.
func (s *stage) record(text string, layer bool) error {
	if err := s.grow(text, len(text)); err != nil {
		return err
	}
	s.image.History = append(s.image.History, ocispec.History{
		CreatedBy:  text,
		Comment:    "buildkit.dockerfile.v0",
		EmptyLayer: !layer,
	})
	return nil
}
