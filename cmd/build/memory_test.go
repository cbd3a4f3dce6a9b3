package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestGarbageIsCollectedAsUsualAfterTheFirstTime(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	done := make(chan struct{})
	collectLater(func() { collectAsUsual(); close(done) })
	percent := debug.SetGCPercent(-1)
	if limit := debug.SetMemoryLimit(-1); percent != -1 || limit != untidy {
		t.Errorf("collected at %d %% and %d bytes, want at %d bytes only", percent, limit, untidy)
	}
	runtime.GC()
	<-done
	percent = debug.SetGCPercent(100)
	if limit := debug.SetMemoryLimit(-1); percent != 100 || limit != math.MaxInt64 {
		t.Errorf("collected at %d %% and %d bytes after the first time, want as Go does", percent, limit)
	}
}

func TestGarbageIsCollectedAsTheEnvironmentSays(t *testing.T) {
	t.Setenv("GOGC", "70")
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	collectLater(func() { t.Error("it was put off") })
	collectAsUsual()
	if percent := debug.SetGCPercent(70); percent != 70 {
		t.Errorf("collected at %d %%, want 70", percent)
	}
}
