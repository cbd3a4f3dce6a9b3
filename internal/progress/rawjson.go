package progress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Warning is BuildKit's VertexWarning: what clients of BuildKit read as JSON.
type Warning struct {
	Vertex string   `json:"vertex,omitempty"`
	Level  int      `json:"level,omitempty"`
	Short  []byte   `json:"short,omitempty"`
	Detail [][]byte `json:"detail,omitempty"`
	URL    string   `json:"url,omitempty"`

	Source *Source `json:"sourceInfo,omitempty"`
	Range  []Range `json:"range,omitempty"`
}

// A Source is the text that a Range lies in.
type Source struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// A Range is what lies between two positions, both included.
type Range struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// A Position is a place in a text: a line, from 1, and a character of it, from 0.
type Position struct {
	Line      int `json:"line,omitempty"`
	Character int `json:"character,omitempty"`
}

// A Usage is what a step has used: bytes, and nanoseconds of all processors together.
type Usage struct {
	CPU     time.Duration `json:"cpu"`
	Memory  int64         `json:"memory"` // the peak; 0 is not known
	Read    int64         `json:"read"`   // from disks
	Written int64         `json:"written"`
}

// notableCPU is from when on the log says what a step has used.
const notableCPU = time.Second

// text is the usage as the log shows it, behind the time.
func (u Usage) text() string {
	text := fmt.Sprintf("(cpu %.1fs", u.CPU.Seconds())
	if u.Memory > 0 {
		text += ", memory " + units.BytesSize(float64(u.Memory))
	}
	if u.Read > 0 {
		text += ", read " + units.BytesSize(float64(u.Read))
	}
	if u.Written > 0 {
		text += ", written " + units.BytesSize(float64(u.Written))
	}
	return text + ")"
}

// The types below are those of BuildKit's client package, which is too much to import: it speaks to a daemon.
type solveStatus struct {
	Vertexes []*vertexStatus `json:"vertexes,omitempty"`
	Statuses []*workStatus   `json:"statuses,omitempty"`
	Logs     []*vertexLog    `json:"logs,omitempty"`
	Warnings []*Warning      `json:"warnings,omitempty"`
}

type vertexStatus struct {
	Digest    string     `json:"digest,omitempty"`
	Inputs    []string   `json:"inputs,omitempty"`
	Name      string     `json:"name,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
	Usage     *Usage     `json:"usage,omitempty"` // BuildKit has no such field here
	Cause     string     `json:"cause,omitempty"` // of not being cached; nor this one
}

type workStatus struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex,omitempty"`
	Name      string     `json:"name,omitempty"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type vertexLog struct {
	Vertex    string    `json:"vertex,omitempty"`
	Stream    int       `json:"stream,omitempty"`
	Data      []byte    `json:"data"`
	Timestamp time.Time `json:"timestamp"`
}

// News is something that has happened. It is about a step as that now is, unless one of the other fields is set.
type news struct {
	step    *Step
	status  *status // of a piece of its work
	output  []byte  // of its process, to the stream
	stream  int     // 1 or 2
	warning *Warning
}

// rawJSON is a view for programs: it collects what has happened since it last drew.
type rawJSON struct{ pending solveStatus }

func (r *rawJSON) say(*Step, string) {}

func (r *rawJSON) tell(n news) {
	p := &r.pending
	switch {
	case n.warning != nil:
		p.Warnings = append(p.Warnings, n.warning)
	case n.output != nil:
		if n.step.logged <= logLimit {
			p.Logs = append(p.Logs, &vertexLog{n.step.digest(), n.stream, bytes.Clone(n.output), time.Now()})
		}
	case n.status != nil:
		r.work(n.step.digest(), n.status)
	default:
		p.Vertexes = append(p.Vertexes, n.step.status())
	}
}

// work tells of a piece of work. Nobody needs two states of one within a line.
func (r *rawJSON) work(vertex string, u *status) {
	w := &workStatus{ID: u.text, Vertex: vertex, Total: u.total, Current: u.current, Timestamp: time.Now(), Started: &u.began}
	if u.complete() {
		w.Completed = &w.Timestamp
	}
	same := func(o *workStatus) bool { return o.ID == w.ID && o.Vertex == w.Vertex }
	r.pending.Statuses = append(slices.DeleteFunc(r.pending.Statuses, same), w)
}

func (r *rawJSON) draw(build, time.Time, bool) []byte {
	p := r.pending
	if len(p.Vertexes)+len(p.Statuses)+len(p.Logs)+len(p.Warnings) == 0 {
		return nil
	}
	r.pending = solveStatus{}
	line, err := json.Marshal(p)
	if err != nil {
		return nil // times, texts and numbers: there is nothing that JSON cannot say
	}
	return append(line, '\n')
}

// digest names the step for programs.
func (s *Step) digest() string {
	if s.vertex != nil {
		return s.vertex.ID().String()
	}
	return digest.Of(fmt.Appendf(nil, "step %d %s", s.number, s.name)).String()
}

// status returns the state of the step for programs.
func (s *Step) status() *vertexStatus {
	v := &vertexStatus{Digest: s.digest(), Name: s.name, Started: &s.began, Cached: s.state == cached, Error: s.cause, Usage: s.usage, Cause: s.because}
	if s.vertex != nil {
		for _, in := range s.vertex.Inputs() {
			v.Inputs = append(v.Inputs, in.ID().String())
		}
	}
	switch s.state {
	case running:
	case cached:
		v.Completed = &s.began
	case canceled:
		v.Error = "context canceled"
		fallthrough
	default:
		v.Completed = &s.ended
	}
	return v
}
