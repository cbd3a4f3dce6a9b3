package progress

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLook(t *testing.T) {
	with := func(changes palette) palette {
		p := defaultPalette()
		maps.Copy(p, changes)
		return p
	}
	for _, c := range []struct {
		env   map[string]string
		want  look
		wrong []string // a part of each message
	}{
		{nil, look{defaultPalette(), 6}, nil},
		{map[string]string{"NO_COLOR": "", "BUILDKIT_COLORS": "", "BUILDKIT_TTY_LOG_LINES": ""}, look{defaultPalette(), 6}, nil},
		{map[string]string{"NO_COLOR": "0"}, look{nil, 6}, nil},
		{map[string]string{"NO_COLOR": "1", "BUILDKIT_COLORS": "run=green"}, look{nil, 6}, nil},
		{map[string]string{"BUILDKIT_TTY_LOG_LINES": "20"}, look{defaultPalette(), 20}, nil},
		{map[string]string{"BUILDKIT_TTY_LOG_LINES": "2"}, look{defaultPalette(), 2}, nil},
		{map[string]string{"BUILDKIT_TTY_LOG_LINES": "0"}, look{defaultPalette(), 6}, []string{"BUILDKIT_TTY_LOG_LINES=0 is not used"}},
		{map[string]string{"BUILDKIT_TTY_LOG_LINES": "many"}, look{defaultPalette(), 6}, []string{"BUILDKIT_TTY_LOG_LINES=many is not used"}},
		{map[string]string{"BUILDKIT_COLORS": "run=123,20,245:error=yellow:cancel=blue:warning=white"},
			look{with(palette{toneRun: "38;5;93", toneError: "33", toneCancel: "34", toneWarning: "37"}), 6}, nil},
		{map[string]string{"BUILDKIT_COLORS": "RUN=Light-Magenta:error=default"}, look{with(palette{toneRun: "95", toneError: "39"}), 6}, nil},
		{map[string]string{"BUILDKIT_COLORS": "run=0,0,0:error=255,255,255"}, look{with(palette{toneRun: "38;5;16", toneError: "38;5;231"}), 6}, nil},
		{map[string]string{"BUILDKIT_COLORS": "run:walk=red:run=pink:run=1,2:run=1,2,256:run=-1,2,3:cancel=red"}, look{with(palette{toneCancel: "31"}), 6},
			[]string{`"run" of BUILDKIT_COLORS`, `"walk=red" of`, `"run=pink" of`, `"run=1,2" of`, "256 is not between", "-1 is not between"}},
	} {
		got, wrong := newLook(func(name string) string { return c.env[name] })
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(look{})); diff != "" {
			t.Errorf("%v: %s", c.env, diff)
		}
		if len(wrong) != len(c.wrong) {
			t.Errorf("%v: got %q", c.env, wrong)
			continue
		}
		for i := range wrong {
			if !strings.Contains(wrong[i], c.wrong[i]) {
				t.Errorf("%v: %q lacks %q", c.env, wrong[i], c.wrong[i])
			}
		}
	}
}

// A step shows as many lines as it is told to, where the screen has room for them.
func TestOutputLines(t *testing.T) {
	for most, want := range map[int]int{1: 1, 6: 6, 20: 20} {
		got := 0
		for _, r := range frame(many(1, 1, 25), 40, most, at(32), false) {
			if strings.Contains(r.left, " => => # ") {
				got++
			}
		}
		if got != want {
			t.Errorf("%d lines are wanted: got %d", want, got)
		}
	}
}

// The last frame shows all that it may, however much that is.
func TestOutputUnbounded(t *testing.T) {
	if got := len(frame(many(3, 2, 25), 10, math.MaxInt, at(32), true)); got != 1+3+2*(1+25) {
		t.Errorf("got %d rows", got)
	}
}

// More lines are kept of a step when more are shown.
func TestKeptLines(t *testing.T) {
	var kept tail
	for i := range 100 {
		kept.add(fmt.Sprint(i), 50)
	}
	if got := kept.last(60); len(got) != 50 || got[0] != "50" || got[49] != "99" {
		t.Errorf("got %v", got)
	}
}
