package history

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"iter"

	"github.com/seed0570efb0/build/snapshot"
)

// The file format of a list of files: a magic line, the files, and the SHA-256 of all before it. For 20,000 files, of which one
// has changed, JSON would take a quarter of a second of the build that finds it out.
const listMagic = "build files 1\n"

func writeFiles(w io.Writer, files iter.Seq2[File, error]) error {
	h := sha256.New()
	w = io.MultiWriter(w, h)
	b := []byte(listMagic)
	for f, err := range files {
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
		for _, text := range []string{f.Path, f.Owner, f.Rest} {
			b = binary.AppendUvarint(b, uint64(len(text)))
			b = append(b, text...)
		}
		b = append(b, byte(f.Type))
		b = binary.AppendUvarint(b, uint64(f.Mode))
		b = append(b, f.Digest[:]...)
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// errList is the error of a list of files that writeFiles did not write.
var errList = errors.New("not a list of files, or damaged")

// readFiles returns the files of a list of the given size in bytes, and at the end an error for what writeFiles did not write: only then it is
// known to be whole. It never panics, whatever r holds, and keeps none of it.
func readFiles(r io.Reader, size int64) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		h := sha256.New()
		p := &listReader{r: bufio.NewReaderSize(io.TeeReader(io.LimitReader(r, size-sha256.Size), h), 64<<10), left: size - sha256.Size}
		p.bad = p.text(uint64(len(listMagic))) != listMagic
		for p.left > 0 && !p.bad {
			f := File{Path: p.string(), Owner: p.string(), Rest: p.string(), Type: snapshot.Type(p.byte()), Mode: uint32(p.uvarint())}
			copy(f.Digest[:], p.text(sha256.Size))
			if !p.bad && !yield(f, nil) {
				return
			}
		}
		sum := make([]byte, sha256.Size)
		if _, err := io.ReadFull(r, sum); p.bad || err != nil || !bytes.Equal(sum, h.Sum(nil)) {
			yield(File{}, errList)
		}
	}
}

// A listReader reads the parts of a list; after the first that is not there it is bad.
type listReader struct {
	r    *bufio.Reader
	left int64 // bytes
	bad  bool
}

func (p *listReader) uvarint() (v uint64) {
	for shift := 0; shift < 64; shift += 7 {
		b := p.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	p.bad = true
	return 0
}

func (p *listReader) byte() byte {
	b, err := p.r.ReadByte()
	p.bad = p.bad || err != nil
	p.left--
	return b
}

func (p *listReader) text(n uint64) string {
	if p.bad || p.left < 0 || n > uint64(p.left) {
		p.bad = true
		return ""
	}
	b := make([]byte, n)
	_, err := io.ReadFull(p.r, b)
	p.bad = err != nil
	p.left -= int64(n)
	return string(b)
}

func (p *listReader) string() string { return p.text(p.uvarint()) }
