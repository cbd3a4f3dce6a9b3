package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// untidy is how much memory this process takes, in bytes, before it collects garbage for the first time. Go does so from 4 MB on, five
	// times in a build of a thousand cached steps, for a tenth of its CPU time; such a build ends before it has made this much.
	untidy = 32 << 20
	// tidy is how much it may take, in bytes, before garbage is looked for more often than Go does: a build of 200,000 files stays below
	// 100 MiB with all that is not Go's memory.
	tidy = 64 << 20
)

// collectGarbage says when garbage is collected, unless the environment says so: not before there are untidy bytes, and then as Go does, but
// more often near tidy bytes. What is alive always gets half as much again: without that a larger build would do nothing but collect.
func collectGarbage() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(-1) // but at the limit
	debug.SetMemoryLimit(untidy)
	limit := int64(untidy)
	afterCollection(func(alive int64) {
		if limit == untidy {
			debug.SetGCPercent(100)
		}
		if want := max(tidy, alive+alive/2); want != limit { // each change stops all threads
			limit = want
			debug.SetMemoryLimit(limit)
		}
	})
}

// afterCollection calls do after each collection of garbage, with how many bytes it has left.
func afterCollection(do func(alive int64)) {
	type cycle struct{ _ *int } // of the collector: each ends the life of one
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var next func(struct{})
	next = func(struct{}) {
		metrics.Read(live)
		do(int64(live[0].Value.Uint64()))
		runtime.AddCleanup(new(cycle), next, struct{}{})
	}
	runtime.AddCleanup(new(cycle), next, struct{}{})
}
