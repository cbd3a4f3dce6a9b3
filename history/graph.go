package history

import (
	"fmt"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// A Graph is what a build was asked for: its steps, inputs first.
type Graph struct {
	// NoCache is set for --no-cache.
	NoCache bool   `json:"noCache,omitempty"`
	Steps   []Step `json:"steps"`

	vertices []*llb.Vertex // of the steps, until they are described
	argument Namer
}

// A Step is a vertex of the graph.
type Step struct {
	ID digest.Digest `json:"id"` // of the vertex
	// Definition is the definition key; it is zero for sources that are known with the graph, and for a step that a build with
	// --no-cache has not come to.
	Definition digest.Digest `json:"definition,omitzero"`
	Op         digest.Digest `json:"op"` // the digest of the operation alone
	Kind       Kind          `json:"kind"`
	Ref        string        `json:"ref,omitempty"` // of an image
	Label      string        `json:"label"`
	File       string        `json:"file,omitempty"` // where it was written: the Dockerfile and the line
	Line       int           `json:"line,omitempty"`
	Inputs     []int         `json:"inputs,omitempty"`
	// Fields are the operation, in words.
	Fields []Field `json:"fields,omitempty"`
	// Files are what the step selects of folders of the host.
	Files   []Selection `json:"files,omitempty"`
	NoCache bool        `json:"noCache,omitempty"`
}

// A Kind is the kind of an operation, named as in BuildKit's LLB.
type Kind string

// The kinds of steps.
const (
	KindImage Kind = "image"
	KindLocal Kind = "local"
	KindHTTP  Kind = "http"
	KindGit   Kind = "git"
	KindExec  Kind = "exec"
	KindFile  Kind = "file"
	KindMerge Kind = "merge"
)

// Source reports whether s is a source whose content is known when the graph is made: it is neither run nor reused.
func (s *Step) Source() bool { return s.Kind == KindImage || s.Kind == KindLocal }

// Stage and text are the parts of a label: "[build 2/5] RUN make" is "RUN make" in the stage build.
func (s *Step) parts() (stage, text string) {
	inside, rest, ok := strings.Cut(s.Label, "] ")
	if !ok || !strings.HasPrefix(inside, "[") {
		return "", s.Label
	}
	words := strings.Fields(inside[1:])
	if n := len(words); n > 0 && strings.Contains(words[n-1], "/") {
		words = words[:n-1] // its number
	}
	return strings.Join(words, " "), rest
}

// Number returns what is in the brackets of the label, like "build 2/5".
func (s *Step) Number() string {
	inside, _, ok := strings.Cut(s.Label, "] ")
	if !ok || !strings.HasPrefix(inside, "[") {
		return ""
	}
	return strings.Join(strings.Fields(inside[1:]), " ")
}

// A Selection names what a step reads of an input, by the digest that counts in its key.
type Selection struct {
	Input  int           `json:"input"`
	Digest digest.Digest `json:"digest"`
}

// A Namer tells apart the variables of a process: those that an ARG declares are arguments.
type Namer func(variable string) (argument bool)

// NewGraph returns the steps below roots, without keys and files. A build that is all reused asks for nothing more than their
// name.
func NewGraph(roots []*llb.Vertex, argument Namer) *Graph {
	g := &Graph{argument: argument}
	place := map[digest.Digest]int{}
	var visit func(v *llb.Vertex) int
	visit = func(v *llb.Vertex) int {
		if i, ok := place[v.ID()]; ok {
			return i
		}
		meta := v.Meta()
		s := Step{ID: v.ID(), Kind: kindOf(v.Op()), Label: meta.Label, File: meta.Pos.File, Line: meta.Pos.Start, NoCache: meta.NoCache}
		for _, in := range v.Inputs() {
			s.Inputs = append(s.Inputs, visit(in))
		}
		if op, ok := v.Op().(*llb.Image); ok {
			s.Ref = op.Ref
		}
		g.Steps, g.vertices = append(g.Steps, s), append(g.vertices, v)
		place[v.ID()] = len(g.Steps) - 1
		return len(g.Steps) - 1
	}
	for _, root := range roots {
		visit(root)
	}
	return g
}

// describe adds to the steps their operations, in words.
func (g *Graph) describe() {
	for i, v := range g.vertices {
		g.Steps[i].Op = llb.OpDigest(v.Op())
		g.Steps[i].Fields = describe(v.Op(), g.argument)
	}
	g.vertices = nil
}

// valid reports whether the steps of a graph that was read point at each other as they must.
func (g *Graph) valid() bool {
	for i, s := range g.Steps {
		for _, in := range s.Inputs {
			if in < 0 || in >= i {
				return false
			}
		}
	}
	return len(g.Steps) > 0
}

// name returns the name that the graph has in the log: of all that can be different in it. What is not here follows from
// the vertices.
func (g *Graph) name() digest.Digest {
	h := digest.NewHasher("history.graph/v1")
	h.Bool("no cache", g.NoCache)
	for i := range g.Steps {
		s := &g.Steps[i]
		h.Digest("id", s.ID)
		h.Digest("definition", s.Definition)
		h.String("label", s.Label)
		h.Int("line", int64(s.Line))
		h.Bool("no cache", s.NoCache)
		h.String("ref", s.Ref)
		for _, f := range s.Files {
			h.Int("input", int64(f.Input))
			h.Digest("files", f.Digest)
		}
	}
	return h.Sum()
}

// Pos returns where the step was written, like "Dockerfile:12", or "".
func (s *Step) Pos() string {
	if s.Line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}
