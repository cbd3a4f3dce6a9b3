// Package llb is the build graph: immutable vertices over a closed set of
// operations. The operations are those of BuildKit's LLB (source, exec, file, merge),
// so that a graph can be exchanged with that ecosystem.
//
// The package is pure data. It performs no I/O, knows no host and no cache, and
// nothing in it points at this process: a vertex means the same on every machine.
package llb

import (
	"fmt"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Vertex is one step of a build. Vertices are immutable; equal IDs mean the
// same step. Each vertex has one output, a root file system, so an input is
// just a vertex.
type Vertex struct {
	op     Op
	inputs []*Vertex
	id     digest.Digest
	meta   Meta
}

// Meta is what people see of a vertex. It is printed and never hashed.
type Meta struct {
	// Label names the step, like "[build 2/5] RUN make".
	Label string
	// Pos is where the step was written; zero when it was not written in a file.
	Pos Position
	// NoCache makes the solver run the step although its result is known.
	// It decides whether the memory is asked, not what the step is.
	NoCache bool
}

// A Position is a range of lines in a Dockerfile, counted from 1, both inclusive.
type Position struct {
	File       string
	Start, End int
}

// IsZero reports whether p points nowhere.
func (p Position) IsZero() bool { return p.Start == 0 }

// String returns "Dockerfile:12".
func (p Position) String() string { return fmt.Sprintf("%s:%d", p.File, p.Start) }

// An Op is what a vertex does: *Image, *Local, *HTTP, *Git, *Exec, *File or *Merge. The set is closed.
type Op interface {
	// hash writes every field that can change the result into h.
	hash(h *digest.Hasher)
	// arity returns the number of inputs that the operation's fields refer to.
	arity() int
	// domain is the versioned name of the record hash writes.
	domain() string
}

// New returns the vertex that applies op to inputs. It panics when op refers
// to an input that is not there: graphs are made by programs, not by users.
func New(op Op, inputs []*Vertex, meta Meta) *Vertex {
	if op.arity() != len(inputs) {
		panic(fmt.Sprintf("llb: %T refers to %d inputs, got %d", op, op.arity(), len(inputs)))
	}
	h := digest.NewHasher(op.domain())
	op.hash(h)
	h.Int("inputs", int64(len(inputs)))
	for _, in := range inputs {
		h.Digest("input", in.id)
	}
	return &Vertex{op: op, inputs: inputs, id: h.Sum(), meta: meta}
}

// Op returns the operation. It must not be modified.
func (v *Vertex) Op() Op { return v.op }

// Inputs returns the vertices that the operation reads. They must not be modified.
func (v *Vertex) Inputs() []*Vertex { return v.inputs }

// ID returns the digest of the operation and the IDs of its inputs.
func (v *Vertex) ID() digest.Digest { return v.id }

// Meta returns what people see of the vertex.
func (v *Vertex) Meta() Meta { return v.meta }

// OpDigest returns the digest of op alone: what a cache key starts from.
func OpDigest(op Op) digest.Digest {
	h := digest.NewHasher(op.domain())
	op.hash(h)
	return h.Sum()
}
