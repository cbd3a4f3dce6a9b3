package executor

import (
	"sync"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// following is what an executor knows of what comes after a step.
type following struct {
	known    sync.Once // sets follower
	follower map[digest.Digest]*llb.Exec
	prepared sync.Map // has the followers whose sandbox was prepared
}

// followers returns, for each step that targets are made from, a process that runs after it and needs its result, directly or not,
// if there is one.
func followers(targets []*llb.Vertex) map[digest.Digest]*llb.Exec {
	next := map[digest.Digest]*llb.Exec{}
	var walk func(v *llb.Vertex, follower *llb.Exec)
	walk = func(v *llb.Vertex, follower *llb.Exec) {
		known, seen := next[v.ID()]
		if seen && (known != nil || follower == nil) {
			return // as are all below
		}
		next[v.ID()] = follower
		if op, ok := v.Op().(*llb.Exec); ok {
			follower = op
		}
		for _, in := range v.Inputs() {
			walk(in, follower)
		}
	}
	for _, v := range targets {
		walk(v, nil)
	}
	return next
}

// prepareFollower begins to prepare a sandbox for the process that follows v. That v runs means that its result is new; so the
// other will run, too, unless its inputs turn out to be the same.
func (x *Executor) prepareFollower(v *llb.Vertex) {
	x.known.Do(func() { x.follower = followers(x.Targets) })
	op := x.follower[v.ID()]
	if op == nil || x.Root == sandbox.RootChroot {
		return
	}
	if _, done := x.prepared.LoadOrStore(op, true); done {
		return
	}
	x.setUp()
	x.runner.Prepare(sandbox.Space{Network: x.network(op.Network), Privileged: op.Security.Insecure, ShmSize: x.ShmSize})
}
