package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"

	"github.com/seed0570efb0/build/internal/digest"
)

// gzipLevel is where klauspost/compress gives archives 5 % larger than gzip -6 in less than a third of the time.
const gzipLevel = 5

// A gzipWriter writes one gzip member. It cuts the bytes into chunks, each of which is compressed by itself, on as many
// cores as there are, and ends on a byte: put together they are one deflate stream. So the bytes depend on nothing
// but the input, and a chunk that is known from another blob is copied from there.
type gzipWriter struct {
	out    io.Writer
	level  int
	chunks *chunkIndex
	slots  chan struct{} // a place for each chunk that is being compressed

	buf    []byte // what is not cut yet
	cutter cutter
	cuts   int
	crc    uint32
	size   uint32        // modulo 1<<32, as the format has it
	order  chan *chunk   // those that are being compressed
	ended  chan struct{} // when all were written
	list   []chunkRecord // what was written
	err    error         // of writing; set when ended is closed
	broken atomic.Bool   // when err is set: no more is compressed
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

// A single gzip member has this header when it names nothing: deflate, and no time, file or system.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// deflateEnd is a last block with nothing in it.
var deflateEnd = []byte{3, 0}

// maxPacking bounds the memory that compression takes, whatever the number of cores and layers. What a layer is read and hashed with is
// one core, which keeps two to four others busy.
const maxPacking = 4

func newSlots() chan struct{} { return make(chan struct{}, min(runtime.GOMAXPROCS(0)+1, maxPacking)) }

func (s *Store) newGzipWriter(w io.Writer, level int) (*gzipWriter, error) {
	if _, err := w.Write(gzipHeader); err != nil {
		return nil, err
	}
	z := &gzipWriter{
		out: w, level: level, chunks: &s.packed, slots: s.packing,
		buf: raws.get(), order: make(chan *chunk, maxPacking), ended: make(chan struct{}),
	}
	go z.emit()
	return z, nil
}

// errBroken stands for the error that Close tells.
var errBroken = errors.New("what was compressed before cannot be written")

// Write implements io.Writer. Which error there is with what it writes to, Close tells.
func (z *gzipWriter) Write(p []byte) (int, error) {
	if z.broken.Load() {
		return 0, errBroken
	}
	z.crc = crc32.Update(z.crc, crc32.IEEETable, p)
	z.size += uint32(len(p))
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
func (z *gzipWriter) next(n int, only bool) {
	c := &chunk{raw: z.buf[:n], only: only, done: make(chan struct{})}
	z.buf = append(raws.get(), z.buf[n:]...)
	z.cuts++
	z.slots <- struct{}{}
	z.order <- c
	go func() {
		defer close(c.done)
		c.pack(z.level, z.chunks)
	}()
}

// emit writes the chunks in their order. After an error it only waits for them.
func (z *gzipWriter) emit() {
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
		raws.put(c.raw)
		packs.put(c.packed)
		<-z.slots
	}
}

// Close writes what is left and ends the member. It must be called once, and waits for all that works on chunks.
func (z *gzipWriter) Close() error {
	if len(z.buf) > 0 {
		z.next(len(z.buf), z.cuts == 0)
	}
	raws.put(z.buf)
	close(z.order)
	if <-z.ended; z.err != nil {
		return z.err
	}
	end := binary.LittleEndian.AppendUint32(bytes.Clone(deflateEnd), z.crc)
	_, err := z.out.Write(binary.LittleEndian.AppendUint32(end, z.size))
	return err
}

// pack compresses a chunk, or finds it compressed in another blob.
func (c *chunk) pack(level int, known *chunkIndex) {
	if c.only {
		c.packed, c.err = deflate(c.raw, level)
		return
	}
	sum := digest.Digest(sha256.Sum256(c.raw))
	if c.packed, c.record = known.find(sum, level); c.packed != nil {
		return
	}
	if c.packed, c.err = deflate(c.raw, level); c.err == nil {
		c.record = chunkRecord{Raw: sum, Size: uint32(len(c.packed)), Packed: checkOf(c.packed)}
	}
}

// deflate returns blocks that give p, and end on a byte.
func deflate(p []byte, level int) ([]byte, error) {
	out := bytes.NewBuffer(packs.get())
	z, ok := deflaters[level].Get().(*flate.Writer)
	if !ok {
		var err error
		if z, err = flate.NewWriter(out, level); err != nil {
			return nil, err
		}
	}
	defer deflaters[level].Put(z)
	z.Reset(out)
	if _, err := z.Write(p); err != nil {
		return nil, err
	}
	err := z.Flush()
	return out.Bytes(), err
}

// deflaters are compressors that are not in use, by level: one takes a megabyte.
var deflaters [flate.BestCompression + 1]sync.Pool
