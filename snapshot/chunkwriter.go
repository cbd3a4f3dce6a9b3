package snapshot

import (
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
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
	cutter cutter
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

// maxPacking bounds the memory that compression takes, whatever the number of cores and layers. What a layer is read and hashed with is
// one core, which keeps three to five others busy.
const maxPacking = 5

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
		n := min(len(rest), chunkMax-len(z.buf), maxStep)
		z.buf = append(z.buf, rest[:n]...)
		rest = rest[n:]
		if end := z.cutter.next(z.buf); end > 0 {
			z.next(end, false)
		}
	}
	return len(p), nil
}

// maxStep bounds what is copied once more, since it turns out to be part of the next chunk. It is less than a chunk.
const maxStep = 64 << 10

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
	if len(z.buf) > 0 {
		z.next(len(z.buf), z.cuts == 0)
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
