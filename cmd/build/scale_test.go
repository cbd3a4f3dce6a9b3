package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// BenchmarkNothingToDo builds what is all in the store, as one command after another would. ns/step should not grow with the size.
func BenchmarkNothingToDo(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint("steps=", n), func(b *testing.B) { benchmarkCached(b, copies(n), n) })
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

// BenchmarkUnchangedContext builds what is in the store from a context that has not changed. ns/file should not grow with the size.
func BenchmarkUnchangedContext(b *testing.B) {
	for _, n := range []int{2000, 20_000, 200_000} {
		b.Run(fmt.Sprint("files=", n), func(b *testing.B) {
			dir, store := benchmarkContext(b, "FROM scratch\nCOPY . /app\n"), b.TempDir()
			for i := range n {
				d := filepath.Join(dir, "src", fmt.Sprint(i/2500), fmt.Sprint(i/50))
				os.MkdirAll(d, 0o755)
				if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i, ".go")), fmt.Appendf(nil, "package p%d\n", i), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			for range 2 { // what changed while the clock had the same time is hashed once more
				buildOnce(b, store, dir)
			}
			benchmarkBuild(b, store, dir, n, "file")
		})
	}
}

// BenchmarkFullStore builds what is in the store beside many entries of other builds. ns/op should not grow with their number.
func BenchmarkFullStore(b *testing.B) {
	for _, n := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprint("entries=", n), func(b *testing.B) {
			dir, store := benchmarkContext(b, copies(1)), b.TempDir()
			buildOnce(b, store, dir)
			disk, err := cache.Open(store)
			if err != nil {
				b.Fatal(err)
			}
			for i := range n {
				d := digest.Of(fmt.Append(nil, i))
				if err := disk.Record(b.Context(), cache.Key(d), d); err != nil {
					b.Fatal(err)
				}
			}
			disk.Close()
			for b.Loop() {
				buildOnce(b, store, dir)
			}
		})
	}
}

// BenchmarkProcesses builds the same 100 steps by several processes at once, on one new store. Each step runs once: ns/op should grow
// with what a process costs that finds all done.
func BenchmarkProcesses(b *testing.B) {
	for _, n := range []int{1, 4, 16} {
		b.Run(fmt.Sprint("processes=", n), func(b *testing.B) {
			dir := benchmarkContext(b, copies(100))
			for b.Loop() {
				store := b.TempDir()
				var g errgroup.Group
				for range n {
					g.Go(func() error {
						if out, err := exec.Command(mainVerb, "--root", store, "-q", dir).CombinedOutput(); err != nil {
							return fmt.Errorf("%w: %s", err, out)
						}
						return nil
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSparseLayer copies a file that is a hole. ns/GiB should not grow with the size; the store should not either.
func BenchmarkSparseLayer(b *testing.B) {
	for _, n := range []int64{1, 4, 20} {
		b.Run(fmt.Sprint("GiB=", n), func(b *testing.B) {
			if n > 4 && testing.Short() {
				b.Skip("it hashes 20 GiB")
			}
			dir := benchmarkContext(b, "FROM scratch\nCOPY f /f\n")
			if err := os.Truncate(filepath.Join(dir, "f"), n<<30); err != nil {
				b.Fatal(err)
			}
			var taken int64
			for b.Loop() {
				store := b.TempDir()
				buildOnce(b, store, dir)
				var err error
				if taken, err = cache.DiskUsage(store); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/GiB")
			b.ReportMetric(float64(taken), "store-bytes")
		})
	}
}

// copies returns a Dockerfile of n steps, each on the one before.
func copies(n int) string {
	var f strings.Builder
	f.WriteString("FROM scratch\n")
	for i := range n {
		fmt.Fprintf(&f, "COPY f /f%d\n", i)
	}
	return f.String()
}

// BenchmarkLongChain makes all layers of a long chain. ns/step should not grow with the size.
func BenchmarkLongChain(b *testing.B) {
	for _, n := range []int{500, 1000, 2000, 5000} {
		b.Run(fmt.Sprint("steps=", n), func(b *testing.B) {
			dir := benchmarkContext(b, copies(n))
			for b.Loop() {
				buildOnce(b, b.TempDir(), dir)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/step")
		})
	}
}

func benchmarkContext(b *testing.B, dockerfile string) (dir string) {
	dir = b.TempDir()
	for name, text := range map[string]string{"Dockerfile": dockerfile, "f": "f\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func buildOnce(b *testing.B, store, dir string) {
	var out bytes.Buffer
	if code := run([]string{"--root", store, "-q", dir}, stdio{strings.NewReader(""), &out, &out}); code != exitDone {
		b.Fatalf("exit status %d: %s", code, &out)
	}
}

func benchmarkCached(b *testing.B, dockerfile string, steps int) {
	dir, store := benchmarkContext(b, dockerfile), b.TempDir()
	b.Cleanup(func() { cache.RemoveAll(store) })
	buildOnce(b, store, dir)
	benchmarkBuild(b, store, dir, steps, "step")
}

// benchmarkBuild times a build, and says what it takes for each of n things.
func benchmarkBuild(b *testing.B, store, dir string, n int, thing string) {
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		buildOnce(b, store, dir)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/"+thing)
}
