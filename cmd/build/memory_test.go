package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// collector returns when garbage is collected now.
func collector() (percent int, limit int64) {
	percent = debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	return percent, debug.SetMemoryLimit(-1)
}

func TestGarbageIsCollectedLateAndThenOften(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	collectGarbage()
	if percent, limit := collector(); percent != -1 || limit != untidy {
		t.Errorf("collected at %d %% and %d bytes, want at %d bytes only", percent, limit, untidy)
	}
	collected := make(chan int64, 1)
	afterCollection(func(alive int64) {
		select {
		case collected <- alive:
		default:
		}
	})
	large := make([]byte, 4*tidy)
	var limit int64
	for range 100 { // the first collections may have begun before there was a large slice, and cleanups run later
		runtime.GC()
		<-collected
		if _, limit = collector(); limit > tidy {
			break
		}
	}
	runtime.KeepAlive(large)
	if percent, _ := collector(); percent != 100 || limit < 4*tidy*3/2 {
		t.Errorf("collected at %d %% and %d bytes with %d bytes alive, want 100 %% and half as much again", percent, limit, len(large))
	}
}

func TestGarbageIsCollectedAsTheEnvironmentSays(t *testing.T) {
	t.Setenv("GOGC", "70")
	before, limit := collector()
	collectGarbage()
	if percent, l := collector(); percent != before || l != limit {
		t.Errorf("collected at %d %% and %d bytes, want %d %% and %d bytes as before", percent, l, before, limit)
	}
}
