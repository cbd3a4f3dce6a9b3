package executor

import (
	"time"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A Packing has the layers of images compressed while the build goes on that makes them, and no others: those that are only copied
// from will be in no image.
type Packing struct {
	packer *snapshot.Packer
	// steps are those whose layers the images will have, by their IDs. It says whether another step is made on top of them.
	steps map[digest.Digest]bool
}

// NewPacking returns the Packing for the images whose last steps are given. Their layers go to packer.
func NewPacking(packer *snapshot.Packer, last []*llb.Vertex) *Packing {
	p := &Packing{packer: packer, steps: map[digest.Digest]bool{}}
	for _, v := range last {
		p.add(v, false)
	}
	return p
}

// add adds a step, and those whose layers are below its own.
func (p *Packing) add(v *llb.Vertex, below bool) {
	known, ok := p.steps[v.ID()]
	p.steps[v.ID()] = known || below
	if ok {
		return
	}
	for i, in := range v.Inputs() {
		if _, merge := v.Op().(*llb.Merge); merge || i == 0 { // further inputs are read
			p.add(in, true)
		}
	}
}

// Solved is told what a step gave, now or in an earlier build.
func (p *Packing) Solved(v *llb.Vertex, chain digest.Digest) {
	if _, ok := p.steps[v.ID()]; ok {
		p.packer.Pack(chain)
	}
}

// making says how the layer of v is made.
func (x *Executor) making(v *llb.Vertex, now time.Time) snapshot.Making {
	m := snapshot.Making{Created: now}
	if x.Packing == nil {
		return m
	}
	if below, ok := x.Packing.steps[v.ID()]; ok {
		m.Packer, m.Awaited = x.Packing.packer, below
	}
	return m
}
