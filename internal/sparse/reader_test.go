package sparse

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// sparseFile returns a file of the given size, with data in a few places that may not be on the disk yet, and what stat says of it.
func sparseFile(t testing.TB, size int64, r *rand.Rand) (*os.File, *unix.Stat_t) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	err = f.Truncate(size)
	for range r.IntN(4) {
		if p := bytes.Repeat([]byte{1}, r.IntN(3*block)); err == nil && int64(len(p)) < size {
			_, err = f.WriteAt(p, r.Int64N(size-int64(len(p))))
		}
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, &st
}

// However a file is written, and in which pieces it is read, its bytes are what they are.
func TestReaderReadsWhatThereIs(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		f, st := sparseFile(t, r.Int64N(32*block), r)
		want, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		in := NewReader(int(f.Fd()), st)
		if r.IntN(2) == 0 {
			in = &reader{fd: int(f.Fd()), size: st.Size}
		}
		var got []byte
		for err == nil {
			p := bytes.Repeat([]byte{2}, r.IntN(block))
			var n int
			n, err = in.Read(p)
			got = append(got, p[:n]...)
		}
		if err != io.EOF || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %d bytes, want %d, or others: %v", seed, len(got), len(want), err)
		}
	}
}

// A hole is asked for and not read, where the file system can be asked.
func TestHolesAreNotRead(t *testing.T) {
	f, st := sparseFile(t, 0, rand.New(rand.NewPCG(0, 0)))
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(trusted, int64(fs.Type)) {
		t.Skipf("temporary files are on a file system of type %#x, which is not asked for its holes", fs.Type)
	}
	if _, err := f.WriteAt([]byte("data"), 4*block); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 * block); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(f.Fd()), st); err != nil {
		t.Fatal(err)
	}
	in := NewReader(int(f.Fd()), st).(*reader)
	holes := int64(0)
	for p := make([]byte, block); ; {
		n, err := in.Read(p)
		if in.hole {
			holes += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if holes < 62*block {
		t.Errorf("%d bytes of %d are known to be holes", holes, in.at)
	}
}

// A file that grows while it is read gives more than it had.
func TestReaderSeesGrowth(t *testing.T) {
	f, st := sparseFile(t, 4*block, rand.New(rand.NewPCG(0, 0)))
	in := NewReader(int(f.Fd()), st)
	if n, err := io.CopyN(io.Discard, in, 4*block); n != 4*block || err != nil {
		t.Fatal(n, err)
	}
	if err := f.Truncate(4*block + 7); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, in); n != 7 || err != nil {
		t.Errorf("%d bytes more, want 7: %v", n, err)
	}
}

// BenchmarkHole hashes a file that is a hole, as the kernel reads it and as it is read here.
func BenchmarkHole(b *testing.B) {
	const size = 256 << 20
	for _, name := range []string{"kernel", "here"} {
		b.Run(name, func(b *testing.B) {
			f, st := sparseFile(b, 0, rand.New(rand.NewPCG(0, 0)))
			st.Size = size
			if err := f.Truncate(size); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				in := io.Reader(f)
				if name == "here" {
					in = NewReader(int(f.Fd()), st)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{sha256.New()}, struct{ io.Reader }{in}, make([]byte, 128<<10)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
