package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/cache"
)

// BenchmarkNothingToDo builds what is all in the store, as one command after another would. ns/step should not grow with the size.
func BenchmarkNothingToDo(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint("steps=", n), func(b *testing.B) {
			var f strings.Builder
			f.WriteString("FROM scratch\n")
			for i := range n {
				fmt.Fprintf(&f, "COPY f /f%d\n", i)
			}
			benchmarkCached(b, f.String(), n)
		})
	}
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint("stages=", n), func(b *testing.B) {
			var stages, last strings.Builder
			last.WriteString("FROM scratch\n")
			for i := range n {
				fmt.Fprintf(&stages, "FROM scratch AS s%d\nCOPY f /f%d\n", i, i)
				fmt.Fprintf(&last, "COPY --from=s%d /f%d /\n", i, i)
			}
			benchmarkCached(b, stages.String()+last.String(), 2*n)
		})
	}
}

func benchmarkCached(b *testing.B, dockerfile string, steps int) {
	dir, store := b.TempDir(), b.TempDir()
	for name, text := range map[string]string{"Dockerfile": dockerfile, "f": "f\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { cache.RemoveAll(store) })
	build := func() {
		var out bytes.Buffer
		if code := run([]string{"--root", store, "-q", dir}, stdio{strings.NewReader(""), &out, &out}); code != exitDone {
			b.Fatalf("exit status %d: %s", code, &out)
		}
	}
	build()
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		build()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(steps), "ns/step")
}
