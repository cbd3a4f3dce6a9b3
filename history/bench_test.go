package history

import (
	"encoding/binary"
	"fmt"
	"iter"
	"testing"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
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
				r := l.Record(Subject{Context: "/a"}, []*llb.Vertex{v}, false, nothing)
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

// BenchmarkOneFileChanged is what it costs to keep what is behind a selection of 20,000 files, and to find the one that is not
// what it was.
func BenchmarkOneFileChanged(b *testing.B) {
	l := open(b)
	list := func(n int) iter.Seq2[snapshot.Entry, error] {
		return func(yield func(snapshot.Entry, error) bool) {
			for i := range 20000 {
				e := snapshot.Entry{Path: fmt.Sprintf("folder/%d/file%d", i/100, i), Type: snapshot.Regular, Mode: 0o644, Digest: digest.Digest{byte(i)}}
				if i == 10000 {
					binary.LittleEndian.PutUint64(e.Digest[1:], uint64(n))
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	name := func(n int) digest.Digest { return digest.Of(fmt.Append(nil, n)) }
	if err := l.AddFiles(name(0), list(0)); err != nil {
		b.Fatal(err)
	}
	for n := 1; b.Loop(); n++ {
		if err := l.AddFiles(name(n), list(n)); err != nil {
			b.Fatal(err)
		}
		if got := l.filesCause(name(n-1), name(n), false); got != "folder/100/file10000 changed" {
			b.Fatal(got)
		}
	}
}
