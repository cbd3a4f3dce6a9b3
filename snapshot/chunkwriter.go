package snapshot

import (
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/seed0570efb0/build/internal/digest"
)

// A chunkWriter writes a compressed stream. It cuts the bytes into chunks, each of which is compressed by itself, on as many
// cores as there are. So the bytes depend on nothing but the input, and a chunk that is known from another blob is
// copied from there.
type chunkWriter struct {
	codec
	out    io.Writer
	chunks *chunkIndex
	slots  chan struct{} // a place for each chunk that is being compressed

	buf    []byte // what is not cut yet
	cuts   int
	order  chan *chunk   // those that are being compressed
	ended  chan struct{} // when all were written
	list   []chunkRecord // what was written
	err    error         // of writing; set when ended is closed
	broken atomic.Bool   // when err is set, so that no more is compressed
}

// A chunk on its way.
type chunk struct {
	raw    []byte
	only   bool
	packed []byte
	record chunkRecord
	err    error
	done   chan struct{}
}

// maxPacking bounds the memory that compression takes, whatever the number of cores and layers. What it is fed with comes from one
// core, which hashes it: more would wait.
const maxPacking = 8

func newSlots() chan struct{} { return make(chan struct{}, min(runtime.GOMAXPROCS(0)+1, maxPacking)) }

func (s *Store) newChunkWriter(w io.Writer, c codec) (*chunkWriter, error) {
	if _, err := w.Write(c.form().Method.header()); err != nil {
		return nil, err
	}
	z := &chunkWriter{
		codec: c, out: w, chunks: &s.packed, slots: s.packing,
		buf: getBuffer(), order: make(chan *chunk, maxPacking), ended: make(chan struct{}),
	}
	go z.emit()
	return z, nil
}

// errBroken stands for the error that Close tells.
var errBroken = errors.New("what was compressed before cannot be written")

// Write implements io.Writer. Which error there is with what it writes to, Close tells.
func (z *chunkWriter) Write(p []byte) (int, error) {
	if z.broken.Load() {
		return 0, errBroken
	}
	z.take(p)
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunkMax-len(z.buf))
		z.buf = append(z.buf, rest[:n]...)
		if rest = rest[n:]; len(z.buf) == chunkMax {
			z.next(cut(z.buf), false)
		}
	}
	return len(p), nil
}

// next hands on the n bytes that the buffer begins with. A chunk that is the only one of its layer is not looked for:
// whoever has it has the layer.
func (z *chunkWriter) next(n int, only bool) {
	c := &chunk{raw: z.buf[:n], only: only, done: make(chan struct{})}
	z.buf = append(getBuffer(), z.buf[n:]...)
	z.cuts++
	z.slots <- struct{}{}
	z.order <- c
	go func() {
		defer close(c.done)
		c.compress(z.codec, z.chunks)
	}()
}

// emit writes the chunks in their order. After an error it only waits for them.
func (z *chunkWriter) emit() {
	defer close(z.ended)
	for c := range z.order {
		<-c.done
		if z.err == nil {
			z.err = c.err
		}
		if z.err == nil {
			_, z.err = z.out.Write(c.packed)
		}
		z.broken.Store(z.err != nil)
		z.list = append(z.list, c.record)
		putBuffer(c.raw)
		putBuffer(c.packed)
		<-z.slots
	}
}

// Close writes what is left and ends the stream. It must be called once, and waits for all that works on chunks.
func (z *chunkWriter) Close() error {
	for len(z.buf) > 0 {
		n := cut(z.buf)
		z.next(n, z.cuts == 0 && n == len(z.buf))
	}
	putBuffer(z.buf)
	close(z.order)
	if <-z.ended; z.err != nil {
		return z.err
	}
	_, err := z.out.Write(z.end())
	return err
}

// compress compresses a chunk, or finds it compressed in another blob.
func (c *chunk) compress(as codec, known *chunkIndex) {
	if c.only {
		c.packed, c.err = as.pack(c.raw)
		return
	}
	sum := digest.Digest(sha256.Sum256(c.raw))
	if c.packed, c.record = known.find(sum, as.form()); c.packed != nil {
		return
	}
	if c.packed, c.err = as.pack(c.raw); c.err == nil {
		c.record = chunkRecord{Raw: sum, Size: uint32(len(c.packed)), Packed: checkOf(c.packed)}
	}
}

// buffers are those of chunks.
var buffers sync.Pool

func getBuffer() []byte {
	if b, ok := buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, chunkMax)
}

func putBuffer(b []byte) {
	if cap(b) >= chunkMax {
		buffers.Put(&b)
	}
}
