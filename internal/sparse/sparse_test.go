package sparse

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever is written, and in which pieces, is what the file holds.
func TestWriterWritesWhatItGets(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := NewWriter(f)
		var want []byte
		for range r.IntN(12) {
			p := make([]byte, r.IntN(4*block))
			for range r.IntN(3) {
				if len(p) > 0 {
					p[r.IntN(len(p))] = 1
				}
			}
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatalf("%d of %d bytes written: %v", n, len(p), err)
			}
			want = append(want, p...)
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); !bytes.Equal(got, want) || err != nil {
			t.Fatalf("seed %d: the file has %d bytes, want %d, or others: %v", seed, len(got), len(want), err)
		}
	}
}

func TestZerosTakeNoDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f)
	for _, p := range [][]byte{[]byte("begin"), make([]byte, 64<<20), []byte("end"), make([]byte, 64<<20)} {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 128<<20+8 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes take %d of the disk", st.Size, st.Blocks*512)
	}
}
