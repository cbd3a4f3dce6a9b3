package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
)

// rawOf returns the lines of a raw display. The clock is the one of package synctest, which begins with the year 2000.
func rawOf(t *testing.T, f func(d *Display)) []map[string]any {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		d := start(&out, &rawJSON{})
		f(d)
		d.Close()
	})
	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		lines = append(lines, v)
	}
	return lines
}

func TestRawJSON(t *testing.T) {
	from := vertex("FROM busybox")
	run := llb.New(&llb.Exec{Args: []string{"make"}}, []*llb.Vertex{from}, llb.Meta{Label: "RUN make"})
	lines := rawOf(t, func(d *Display) {
		d.Cached(from)
		d.Started(run)
		_, stderr := d.Log(run)
		io.WriteString(stderr, "half \x1b[1ma line")
		d.WarnAbout(Warning{Level: 1, Short: []byte("look"), Range: []Range{{Position{Line: 2}, Position{Line: 2}}}})
		testkit.Pass(interval + time.Millisecond)
		d.Use(run, Usage{CPU: time.Second, Memory: 4})
		d.Done(run, errors.New("exit code: 7"))
		pull := d.Step("pulling x")
		pull.Status("x", 1, 10)
		pull.Status("x", 10, 10)
	})
	got, err := json.MarshalIndent(lines, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(from.ID().String(), "FROM", run.ID().String(), "RUN").Replace(string(got))
	const began, later = "2000-01-01T00:00:00Z", "2000-01-01T00:00:00.101Z"
	for _, want := range []string{
		`"cached": true,
    "completed": "` + began + `",
    "digest": "FROM",
    "name": "FROM busybox"`,
		`"digest": "RUN",
    "inputs": [
     "FROM"
    ],
    "name": "RUN make",
    "started": "` + began + `"
   }`,
		`"data": "aGFsZiAbWzFtYSBsaW5l",
    "stream": 2,`, // as it was written
		`"short": "bG9vaw=="`,
		`"completed": "` + later + `",
    "digest": "RUN",
    "error": "exit code: 7",`,
		`"usage": {
     "cpu": 1000000000,
     "memory": 4,`,
		`"completed": "` + later + `",
    "current": 10,
    "id": "x",`,
		`"error": "context canceled",
    "name": "pulling x"`, // nobody has said that it is done
	} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if len(lines) != 2 || strings.Contains(text, `"current": 1,`) {
		t.Errorf("%d lines, want one for each interval, with the last state of things:\n%s", len(lines), text)
	}
}

func TestRawJSONOfNothing(t *testing.T) {
	if lines := rawOf(t, func(*Display) {}); len(lines) != 0 {
		t.Error(lines)
	}
}

func TestCauseOfAStep(t *testing.T) {
	run, first := vertex("RUN make"), vertex("RUN true")
	steps := func(d *Display) {
		d.Started(run)
		d.Because(run, "argument\nVERSION \x1b[1m1 -> 2", true)
		d.Done(run, nil)
		d.Because(run, "late", true)
		d.Started(first)
		d.Because(first, "first build", false)
		d.Done(first, nil)
	}
	lines := rawOf(t, steps)
	text, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	for want, is := range map[string]bool{"argument VERSION 1 -\\u003e 2": true, "first build": true, "late": false} {
		if strings.Contains(string(text), `"cause":"`+want+`"`) != is {
			t.Errorf("cause %q: want %v in %s", want, is, text)
		}
	}
	check(t, logOf(t, steps), `
#1 RUN make
#1 cause: argument VERSION 1 -> 2
#1 DONE 0.0s

#2 RUN true
#2 DONE 0.0s
`)
}
