package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/solver"
)

// machine runs nothing: the result of a step is its content key. It remembers in RAM.
type machine struct {
	deaf
	memory map[cache.Key]digest.Digest
	fail   string
}

func (m *machine) key(domain string, v *llb.Vertex, inputs ...digest.Digest) cache.Key {
	h := digest.NewHasher(domain)
	h.Digest("op", llb.OpDigest(v.Op()))
	for _, in := range inputs {
		h.Digest("in", in)
	}
	return cache.Key(h.Sum())
}

func (m *machine) Definition(_ context.Context, v *llb.Vertex, inputs []cache.Key) (cache.Key, error) {
	var in []digest.Digest
	for _, k := range inputs {
		in = append(in, digest.Digest(k))
	}
	return m.key("definition", v, in...), nil
}

func (m *machine) Content(_ context.Context, v *llb.Vertex, inputs []digest.Digest) (cache.Key, error) {
	return m.key("content", v, inputs...), nil
}

func (m *machine) Execute(_ context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	if v.Meta().Label == m.fail {
		return digest.Digest{}, errors.New("failed")
	}
	return digest.Digest(m.key("content", v, inputs...)), nil
}

func (m *machine) Lookup(_ context.Context, k cache.Key) (digest.Digest, bool, error) {
	d, ok := m.memory[k]
	return d, ok, nil
}

func (m *machine) Record(_ context.Context, k cache.Key, d digest.Digest) error {
	m.memory[k] = d
	return nil
}

func (m *machine) Lock(context.Context, string) (func(), error) { return func() {}, nil }

// chain is a graph of processes on each other.
func chain(commands ...string) *llb.Vertex {
	v := llb.New(&llb.Image{}, nil, llb.Meta{Label: "FROM scratch"})
	for i, c := range commands {
		v = llb.New(&llb.Exec{Args: []string{"sh", "-c", c}}, []*llb.Vertex{v}, llb.Meta{Label: fmt.Sprintf("[%d/%d] RUN %s", i+1, len(commands), c)})
	}
	return v
}

// solve builds v as /a, and returns its record and the causes that were told.
func (m *machine) solve(t *testing.T, l *Log, v *llb.Vertex, set func(*Recorder)) (*Build, []string) {
	t.Helper()
	r := l.Record(Subject{Context: "/a"}, []*llb.Vertex{v}, false, nothing)
	var told []string
	r.Executor, r.Observer = m, m
	r.Because = func(v *llb.Vertex, c Cause) { told = append(told, v.Meta().Label+": "+c.Text) }
	if set != nil {
		set(r)
	}
	s := solver.Solver{Executor: r, Memory: m, Observer: r, Jobs: 1, Expect: r.Expect}
	status := Done
	if _, err := s.Solve(t.Context(), v); err != nil {
		status = Failed
	}
	b, err := r.Close(status)
	if err != nil {
		t.Fatal(err)
	}
	return b, told
}

func TestRecorder(t *testing.T) {
	l, m := open(t), &machine{memory: map[cache.Key]digest.Digest{}}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	b, told := m.solve(t, l, chain("a", "b"), nil)
	check("first", told, "[1/2] RUN a: first build", "[2/2] RUN b: first build")
	if b.Ran() != 2 || b.Reused != 0 || b.Before != "" {
		t.Errorf("%+v", b)
	}
	first := b
	b, told = m.solve(t, l, chain("a", "b"), nil)
	check("again", told)
	if b.Ran() != 0 || b.Reused != 2 || b.Graph != first.Graph || len(b.Steps) != 0 {
		t.Errorf("%+v", b)
	}
	m.fail = "[2/3] RUN x"
	_, told = m.solve(t, l, chain("a", "x", "b"), nil)
	check("a new step that fails", told, "[2/3] RUN x: new step")
	m.fail = ""
	b, told = m.solve(t, l, chain("a", "x", "b"), nil)
	check("once more", told, "[2/3] RUN x: it failed in the build before", "[3/3] RUN b: the build before ended before it was done")
	clear(m.memory)
	evicted := func(r *Recorder) {
		r.Evicted = func(definition, content digest.Digest) (string, bool) {
			if definition.IsZero() || content.IsZero() {
				t.Error("a result is asked for by keys that are not known")
			}
			return "evicted 2 h ago by the size limit", r.graph.Steps[1].Definition == definition
		}
	}
	_, told = m.solve(t, l, chain("a", "x", "b"), evicted)
	check("lost", told, "[1/3] RUN a: evicted 2 h ago by the size limit", "[2/3] RUN x: its result is not in the store any more",
		"[3/3] RUN b: its result is not in the store any more")
	if f, ok := l.Facts(l.Graph(b).Steps[1].Definition); !ok || f.Took <= 0 || f.Content.IsZero() {
		t.Errorf("facts %+v, %v", f, ok)
	}
}
