package snapshot

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A pressed tar is the compressed form of a layer that may not have a name yet. It must end in keep, or in Abort of its blob.
type pressed struct {
	s    *Store
	blob *cache.BlobWriter
	as   Compression
	gzip *gzipWriter // nil in other forms
}

// press compresses the tar that write writes.
func (s *Store) press(as Compression, write func(w io.Writer) error) (_ *pressed, err error) {
	x := &pressed{s: s, as: as}
	if x.blob, err = s.disk.NewBlob(); err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(x.blob, 256<<10)
	z, err := s.compressor(out, as)
	if err != nil {
		x.blob.Abort()
		return nil, err
	}
	x.gzip, _ = z.(*gzipWriter)
	err = write(z)
	if closed := z.Close(); err == nil || errors.Is(err, errBroken) { // in any case: it waits for all that works for it
		err = closed
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		x.blob.Abort()
		return nil, err
	}
	return x, nil
}

// keep makes what was pressed the blob of a layer.
func (x *pressed) keep(ctx context.Context, layer digest.Digest) (Blob, error) {
	d, err := x.blob.Commit()
	if err != nil {
		return Blob{}, err
	}
	b := Blob{Digest: d, MediaType: x.as.MediaType, Level: x.as.Level, Format: compressorFormat, Size: x.blob.Size(), Proved: true}
	if err := x.s.AddBlob(ctx, layer, b); err != nil {
		return Blob{}, err
	}
	if x.gzip != nil {
		err = x.s.packed.keep(d, x.gzip.level, x.gzip.list)
	}
	return b, err
}
