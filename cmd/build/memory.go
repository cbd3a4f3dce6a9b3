package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
)

// untidy is how much memory this process takes before it collects garbage for the first time. Go does so from 4 MB on, five times in a
// build of a thousand cached steps, for a tenth of its CPU time; such a build ends before it has made this much.
const untidy = 32 << 20

// tuned reports whether the environment says when garbage is to be collected.
func tuned() bool { return os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" }

// collectLater puts off the collection of garbage. After the first one then is called.
func collectLater(then func()) {
	if tuned() {
		return
	}
	debug.SetMemoryLimit(untidy)
	debug.SetGCPercent(-1) // but at the limit
	garbage := &struct{ _ *int }{}
	runtime.AddCleanup(garbage, func(then func()) { then() }, then)
}

// collectAsUsual ends what collectLater has begun: after the first collection, or for who has a wish of his own.
func collectAsUsual() {
	if tuned() {
		return
	}
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)
}
