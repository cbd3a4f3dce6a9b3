package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapGoal is what the heap may take, in bytes, before garbage is looked for more often: a build of 200,000 files stays below 100 MiB with all that is not
// in the heap.
const heapGoal = 64 << 20

// boundHeap has the collector run more often when the heap comes near its goal. What is alive always gets half as much again: without that a larger
// build would do nothing but collect.
func boundHeap() {
	debug.SetMemoryLimit(heapGoal)
	type cycle [32]byte // of the collector: each ends the life of one
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	limit := int64(heapGoal)
	var end func(c *cycle)
	end = func(c *cycle) {
		metrics.Read(live)
		alive := int64(live[0].Value.Uint64())
		if want := max(heapGoal, alive+alive/2); want != limit {
			limit = want
			debug.SetMemoryLimit(limit)
		}
		runtime.SetFinalizer(c, end)
	}
	runtime.SetFinalizer(new(cycle), end)
}
