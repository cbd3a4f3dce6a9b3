package lower

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// An Outline is what can be given to a build of a target.
type Outline struct {
	Name, Description  string // of the target
	Args               []OutlineArg
	Secrets, SSHAgents []OutlineMount
}

// An OutlineArg is an ARG that the target, or a stage it needs, uses.
type OutlineArg struct {
	Name, Value, Description string
	Location                 []dfparser.Range

	uses map[string]struct{} // the arguments that the value is made of
}

// An OutlineMount is a secret or an agent that some RUN asks for.
type OutlineMount struct {
	Name     string
	Required bool
	Location []dfparser.Range
}

// OutlineOf returns the outline of the target of opt.
func OutlineOf(ctx context.Context, f *parser.File, opt Options) (*Outline, error) {
	l, err := newLowering(ctx, f, opt.described())
	if err != nil {
		return nil, err
	}
	target, err := l.run(ctx)
	if err != nil {
		return nil, err
	}
	o := &outliner{
		stages: map[*stage]bool{}, args: map[string]OutlineArg{},
		secrets: map[string]OutlineMount{}, agents: map[string]OutlineMount{},
	}
	o.stage(target)
	ofArg := func(a OutlineArg) []dfparser.Range { return a.Location }
	ofMount := func(m OutlineMount) []dfparser.Range { return m.Location }
	return &Outline{
		Name: target.from.Name, Description: target.from.DocComment,
		Args: inOrder(o.args, ofArg), Secrets: inOrder(o.secrets, ofMount), SSHAgents: inOrder(o.agents, ofMount),
	}, nil
}

// use notes arguments that the FROM of the stage is made of.
func (s *stage) use(names map[string]struct{}) {
	if s.used == nil {
		s.used = map[string]bool{}
	}
	for name := range names {
		s.used[name] = true
	}
}

// declare notes an ARG of the stage. One that has its value from before the first FROM is explained there.
func (s *stage) declare(arg instructions.KeyValuePairOptional, own bool) {
	s.use(map[string]struct{}{arg.Key: {}})
	if !own {
		return
	}
	if s.ownArgs == nil {
		s.ownArgs = map[string]OutlineArg{}
	}
	s.ownArgs[arg.Key] = OutlineArg{Name: arg.Key, Value: arg.ValueString(), Description: arg.DocComment, Location: s.current.Location()}
}

// asks notes the secrets and agents of a RUN.
func (s *stage) asks(mounts []llb.Mount) {
	for _, m := range mounts {
		if m.Type != llb.MountSecret && m.Type != llb.MountSSH {
			continue
		}
		id := m.ID
		if id == "" {
			id = "default"
		}
		s.wanted = append(s.wanted, want{m.Type, OutlineMount{id, m.Required, s.current.Location()}})
	}
}

// An want is a mount with its type.
type want struct {
	kind llb.MountType
	OutlineMount
}

// An outliner collects from the target down: what is nearer to it is what counts.
type outliner struct {
	stages          map[*stage]bool
	args            map[string]OutlineArg
	secrets, agents map[string]OutlineMount
}

func (o *outliner) stage(s *stage) {
	if o.stages[s] {
		return
	}
	o.stages[s] = true
	for _, name := range slices.Sorted(maps.Keys(s.used)) {
		o.arg(s, name)
	}
	for _, a := range s.wanted {
		into := o.secrets
		if a.kind == llb.MountSSH {
			into = o.agents
		}
		if _, ok := into[a.Name]; !ok {
			into[a.Name] = a.OutlineMount
		}
	}
	if s.parent != nil {
		o.stage(s.parent)
	}
	for _, source := range s.sources {
		o.stage(source)
	}
}

// arg adds an argument of s, and those it is made of.
func (o *outliner) arg(s *stage, name string) {
	if _, ok := o.args[name]; ok {
		return
	}
	a, ok := s.ownArgs[name]
	if !ok {
		if a, ok = s.globalArgs[name]; !ok {
			return // predefined
		}
	}
	o.args[name] = a
	for _, used := range slices.Sorted(maps.Keys(a.uses)) {
		o.arg(s, used)
	}
}

// inOrder returns values in the order of the file.
func inOrder[V any](m map[string]V, loc func(V) []dfparser.Range) []V {
	var out []V
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	slices.SortStableFunc(out, func(a, b V) int { return firstLineOf(loc(a)) - firstLineOf(loc(b)) })
	return out
}

func firstLineOf(loc []dfparser.Range) int {
	if len(loc) == 0 {
		return 0
	}
	return loc[0].Start.Line
}
