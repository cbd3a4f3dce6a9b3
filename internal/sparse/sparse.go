// Package sparse writes files without giving disk to their zeros, so that an image of an empty disk in a layer costs what it holds.
package sparse

import (
	"bytes"
	"io"
	"os"
)

// block is how many zeros together are left out: fewer are not worth a system call, nor a hole in the file.
const block = 64 << 10

var zeros [block]byte

// A Writer writes a file that is empty and stands at its start. It must end in Finish.
type Writer struct {
	f    *os.File
	gap  int64 // how many zeros at the end are not there yet
	size int64
}

// NewWriter returns a Writer on f.
func NewWriter(f *os.File) *Writer { return &Writer{f: f} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := blocks(p, true)
		if n > 0 {
			w.gap += int64(n)
			w.size += int64(n)
			p = p[n:]
			continue
		}
		n = blocks(p, false)
		if err := w.write(p[:n]); err != nil {
			return total - len(p), err
		}
		p = p[n:]
	}
	return total, nil
}

// blocks returns how much of p is whole blocks of zeros, or else how much comes before the next of them.
func blocks(p []byte, zero bool) (n int) {
	for len(p)-n >= block && bytes.Equal(p[n:n+block], zeros[:]) == zero {
		n += block
	}
	if !zero && len(p)-n < block {
		n = len(p)
	}
	return n
}

func (w *Writer) write(p []byte) error {
	if w.gap > 0 {
		if _, err := w.f.Seek(w.gap, io.SeekCurrent); err != nil {
			return err
		}
		w.gap = 0
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	return err
}

// Finish gives the file its size.
func (w *Writer) Finish() error {
	if w.gap == 0 {
		return nil
	}
	w.gap = 0
	return w.f.Truncate(w.size)
}
