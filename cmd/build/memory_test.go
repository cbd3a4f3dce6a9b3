package main

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
)

// aloneVariable says that a test has a process of its own.
const aloneVariable = "BUILD_TEST_ALONE"

// alone reports whether this process runs t only. Otherwise t has been run in such a process, with its collector as it is at the start:
// what collectGarbage has begun goes on as long as a process, and others shall not meet it.
func alone(t *testing.T, env ...string) bool {
	if os.Getenv(aloneVariable) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(append(os.Environ(), "GOGC=", "GOMEMLIMIT=", aloneVariable+"=1"), env...)
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
	return false
}

// collector returns when garbage is collected now.
func collector() (percent int, limit int64) {
	percent = debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	return percent, debug.SetMemoryLimit(-1)
}

func TestGarbageIsCollectedLateAndThenOften(t *testing.T) {
	if !alone(t) {
		return
	}
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
	// collect collects until it has had the effect, since the first collections may have begun earlier, and cleanups run later.
	collect := func(done func(limit int64) bool) (limit int64) {
		for range 100 {
			runtime.GC()
			<-collected
			if _, limit = collector(); done(limit) {
				break
			}
		}
		return limit
	}
	large := make([]byte, 4*tidy)
	limit := collect(func(limit int64) bool { return limit > tidy })
	runtime.KeepAlive(large)
	if percent, _ := collector(); percent != 100 || limit < 4*tidy*3/2 {
		t.Errorf("collected at %d %% and %d bytes with %d bytes alive, want 100 %% and half as much again", percent, limit, len(large))
	}
	if limit := collect(func(limit int64) bool { return limit == tidy }); limit != tidy {
		t.Errorf("collected at %d bytes when nothing large is alive any more, want %d", limit, tidy)
	}
}

func TestGarbageIsCollectedAsTheEnvironmentSays(t *testing.T) {
	if !alone(t, "GOGC=70") {
		return
	}
	_, limit := collector()
	collectGarbage()
	if percent, l := collector(); percent != 70 || l != limit {
		t.Errorf("collected at %d %% and %d bytes, want 70 %% and %d bytes as before", percent, l, limit)
	}
}
