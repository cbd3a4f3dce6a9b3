package solver

import "github.com/seed0570efb0/build/llb"

// An Observer is told what happens to the steps of a build, in any order and from any
// goroutine: for each vertex at most one of Cached and Started, and Done after Started.
type Observer interface {
	Cached(v *llb.Vertex)
	Started(v *llb.Vertex)
	Done(v *llb.Vertex, err error)
}
