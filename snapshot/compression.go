package snapshot

import (
	"cmp"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// A Compression is the form that blobs of layers are to have.
type Compression struct {
	MediaType string // one of MediaTypeTar, MediaTypeTarGzip and MediaTypeTarZstd
	// Level is 1 to 9 for gzip and 1 to 22 for zstd. 0 is the one that costs least for what it saves.
	Level int
	// Force is for layers that came with an image too.
	Force bool
}

// takes reports whether b, when its bytes can be had, is the layer in this form. What came with an image has a level
// that nobody knows, and any will do.
func (c Compression) takes(b Blob) bool {
	if len(b.Origins) > 0 {
		return !c.Force || b.MediaType == c.MediaType
	}
	return b.MediaType == c.MediaType && b.Level == c.Level
}

// gzipLevel is where klauspost/compress gives archives about 5 % larger than gzip -6 in less
// than a quarter of the time.
const gzipLevel = 5

// gzipBlock is the size of the pieces that gzip compresses in parallel. It is fixed, so that the
// bytes do not depend on the number of cores.
const gzipBlock = 1 << 20

func compressor(w io.Writer, as Compression) (io.WriteCloser, error) {
	switch as.MediaType {
	case MediaTypeTar:
		return nopCloser{w}, nil
	case MediaTypeTarGzip:
		z, err := pgzip.NewWriterLevel(w, cmp.Or(as.Level, gzipLevel))
		if err != nil {
			return nil, err
		}
		return z, z.SetConcurrency(gzipBlock, 8)
	case MediaTypeTarZstd:
		level := zstd.SpeedDefault
		if as.Level > 0 {
			level = zstd.EncoderLevelFromZstd(as.Level)
		}
		// With one encoder the bytes do not depend on the number of cores.
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level))
	}
	return nil, fmt.Errorf("layers of type %q cannot be written", as.MediaType)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
