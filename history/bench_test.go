package history

import (
	"fmt"
	"testing"

	"github.com/seed0570efb0/build/llb"
)

// BenchmarkNothingToDo is what the record costs a build of 1,000 steps that is all reused, on a store that remembers many.
func BenchmarkNothingToDo(b *testing.B) {
	for _, n := range []int{3, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := open(b)
			v := llb.New(&llb.Image{}, nil, llb.Meta{Label: "FROM scratch"})
			for i := range n {
				v = llb.New(&llb.Exec{Args: []string{"sh", "-c", fmt.Sprint("make ", i)}, Env: []string{"A=1", "B=2"}}, []*llb.Vertex{v},
					llb.Meta{Label: fmt.Sprintf("[%d/%d] RUN make %d", i+1, n, i)})
			}
			for b.Loop() {
				r := l.Record(Subject{Context: "/a"}, v, false, nothing)
				r.Observer = deaf{}
				reused(r, v)
				if _, err := r.Close(Done); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// reused tells r that v and all below it are reused.
func reused(r *Recorder, v *llb.Vertex) {
	for _, in := range v.Inputs() {
		reused(r, in)
	}
	r.Cached(v)
}

type deaf struct{}

func (deaf) Cached(*llb.Vertex)      {}
func (deaf) Started(*llb.Vertex)     {}
func (deaf) Done(*llb.Vertex, error) {}
