package snapshot

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// A codec makes a stream of chunks, each of which is compressed by itself.
type codec interface {
	form() chunkForm
	// take is given all bytes of the stream in their order, before they are cut.
	take(p []byte)
	// pack compresses a chunk. It is called by several goroutines at once.
	pack(chunk []byte) ([]byte, error)
	// end is what follows the chunks.
	end() []byte
}

// A chunkForm says what a chunk that is kept can be part of again.
type chunkForm struct {
	Method chunkMethod
	Level  uint8
}

// A chunkMethod is a number on disk.
type chunkMethod uint8

const (
	methodGzip chunkMethod = iota
	methodZstd
)

// header is what comes before the chunks. zstd needs none: each chunk is a frame, and frames may follow each other.
func (m chunkMethod) header() []byte {
	if m == methodGzip {
		return gzipHeader
	}
	return nil
}

// gzipLevel is where klauspost/compress gives archives 5 % larger than gzip -6 in less than a third of the time.
const gzipLevel = 5

// A single gzip member has this header when it names nothing: deflate, and no time, file or system.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// deflateEnd is a last block with nothing in it.
var deflateEnd = []byte{3, 0}

// A gzipCodec makes one member: chunks end on a byte, so together they are one deflate stream.
type gzipCodec struct {
	level int
	crc   uint32
	size  uint32 // modulo 1<<32, as the format has it
}

func (z *gzipCodec) form() chunkForm { return chunkForm{methodGzip, uint8(z.level)} }

func (z *gzipCodec) take(p []byte) {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, p)
	z.size += uint32(len(p))
}

func (z *gzipCodec) pack(chunk []byte) ([]byte, error) { return deflate(chunk, z.level) }

func (z *gzipCodec) end() []byte {
	end := binary.LittleEndian.AppendUint32(bytes.Clone(deflateEnd), z.crc)
	return binary.LittleEndian.AppendUint32(end, z.size)
}

// deflate returns blocks that give p, and end on a byte.
func deflate(p []byte, level int) ([]byte, error) {
	out := bytes.NewBuffer(getBuffer())
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

// A zstdCodec makes a frame of each chunk.
type zstdCodec struct{ level zstd.EncoderLevel }

func (z zstdCodec) form() chunkForm { return chunkForm{methodZstd, uint8(z.level)} }
func (zstdCodec) take([]byte)       {}
func (zstdCodec) end() []byte       { return nil }

func (z zstdCodec) pack(chunk []byte) ([]byte, error) {
	if z.level == zstd.SpeedBestCompression {
		bestSlots <- struct{}{}
		defer func() { <-bestSlots }()
	}
	e, ok := zstdEncoders[z.level].Get().(*zstd.Encoder)
	if !ok {
		var err error
		e, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(z.level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(chunkMax))
		if err != nil {
			return nil, err
		}
	}
	defer zstdEncoders[z.level].Put(e)
	return e.EncodeAll(chunk, getBuffer()), nil
}

// zstdEncoders are compressors that are not in use, by level.
var zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool

// bestSlots bounds how many chunks are compressed at the best level at once: each takes 35 MB, where those of others take 1 to 5.
var bestSlots = make(chan struct{}, 2)
