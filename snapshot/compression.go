package snapshot

import (
	"cmp"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
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
	return b.MediaType == c.MediaType && b.Level == c.Level && (b.Format == compressorFormat || c.MediaType == MediaTypeTar)
}

// compressorFormat counts the changes of the bytes that compressor gives for the same input. What is kept of another one is made again,
// so that the digest of an image does not depend on which version of this program has built it before.
const compressorFormat = 2

func (s *Store) compressor(w io.Writer, as Compression) (io.WriteCloser, error) {
	switch as.MediaType {
	case MediaTypeTar:
		return nopCloser{w}, nil
	case MediaTypeTarGzip:
		return s.newGzipWriter(w, cmp.Or(as.Level, gzipLevel))
	case MediaTypeTarZstd:
		level := zstd.SpeedDefault
		if as.Level > 0 {
			level = zstd.EncoderLevelFromZstd(as.Level)
		}
		// Two work on one block after the other: that changes no byte, takes no more memory, and keeps up with what reads the layer.
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(level))
	}
	return nil, fmt.Errorf("layers of type %q cannot be written", as.MediaType)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
