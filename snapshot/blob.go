package snapshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/seed0570efb0/build/internal/digest"
)

// Pull makes sure that the bytes of b are in the store, and downloads them when they are not.
func (s *Store) Pull(ctx context.Context, b Blob) error {
	if s.hasBlob(b) {
		return nil
	}
	unlock, err := s.disk.Lock(ctx, "pull/"+b.Digest.Hex())
	if err != nil {
		return err
	}
	defer unlock()
	if s.hasBlob(b) {
		return nil
	}
	if len(b.Origins) == 0 {
		return fmt.Errorf("blob %s: %w", b.Digest, ErrUnavailable)
	}
	r, err := s.fetch(ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := s.disk.NewBlob()
	if err != nil {
		return err
	}
	defer w.Abort()
	// One byte more than announced is enough to show that an origin sends something else.
	_, err = io.Copy(w, io.LimitReader(r, b.Size+1))
	if file := (*fs.PathError)(nil); errors.As(err, &file) { // not the connection: the store, or a layout on disk
		return fmt.Errorf("blob %s: %w", b.Digest, err)
	}
	if err != nil {
		return fmt.Errorf("download of %s from %s: the connection ended after %d of %d bytes: %w", b.Digest, b.Origins[0], w.Size(), b.Size, err)
	}
	switch {
	case w.Size() < b.Size:
		return fmt.Errorf("download of %s from %s: the connection ended after %d of %d bytes", b.Digest, b.Origins[0], w.Size(), b.Size)
	case w.Digest() != b.Digest:
		return fmt.Errorf("download of %s from %s: the bytes that came have the digest %s", b.Digest, b.Origins[0], w.Digest())
	}
	_, err = w.Commit()
	return err
}

// hasBlob reports whether the bytes of b are here, as far as their number tells.
func (s *Store) hasBlob(b Blob) bool {
	n, ok := s.disk.BlobSize(b.Digest)
	return ok && n == b.Size
}

// openStream opens the uncompressed tar of a layer for reading once, until ctx ends, and tells the blob it
// comes from if that has another digest than the layer. The caller must read to io.EOF to know that the bytes are
// right: damaged ones show as a *cache.DamagedError in its place.
func (s *Store) openStream(ctx context.Context, layer digest.Digest) (io.ReadCloser, *Blob, error) {
	r, from, err := s.openForm(ctx, layer)
	if err != nil {
		return nil, nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{stoppable{ctx, r}, r}, from, nil
}

// openForm opens the form of a layer that is the best to read its tar from. A tree comes last: only one that was captured
// gives the tar again, and such a layer has no blob but those made of it.
func (s *Store) openForm(ctx context.Context, layer digest.Digest) (io.ReadCloser, *Blob, error) {
	if r, err := s.disk.VerifiedBlob(layer); !errors.Is(err, fs.ErrNotExist) {
		return r, nil, err
	}
	blobs, err := s.Blobs(layer)
	if err != nil {
		return nil, nil, err
	}
	err = fmt.Errorf("layer %s: %w", layer, ErrUnavailable)
	for _, b := range blobs {
		if err = s.Pull(ctx, b); err != nil {
			continue
		}
		raw, err := s.disk.VerifiedBlob(b.Digest)
		if err != nil {
			return nil, nil, err
		}
		r, err := decompress(raw)
		if err != nil {
			return nil, nil, s.diagnose(ctx, layer, err)
		}
		return r, &b, nil
	}
	if t, ok := s.capturedTree(layer); ok && errors.Is(err, ErrUnavailable) {
		r, err := s.tarFromTree(ctx, layer, t)
		return r, nil, err
	}
	return nil, nil, err
}

// A stoppable reader ends with the cause of its context, so that what is made of a large file ends, too.
type stoppable struct {
	ctx context.Context
	io.Reader
}

func (s stoppable) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	return s.Reader.Read(p)
}

// Compressed returns the blob of the chain's topmost layer in the given form, and makes it when it is not known. A
// layer that came with an image keeps the blob it came with, unless that is of another compression and as is forced, so
// that its digest stays what registries know it by.
func (s *Store) Compressed(ctx context.Context, c *Chain, as Compression) (Blob, error) {
	b, claimed, err := s.exportable(c.Layer, as)
	if err != nil || !b.Digest.IsZero() {
		return b, err
	}
	if _, here := s.disk.BlobSize(c.Layer); !here && !s.hasTree(c) {
		switch {
		case len(claimed) == 1 && as.takes(claimed[0]):
			return claimed[0], nil // a base that was never needed here: it goes out as it came
		case len(claimed) > 0:
			// Images disagree about the layer, or it goes out in another form. Reading it shows who is right.
			if _, err := s.inflate(ctx, c.Layer); err != nil {
				return Blob{}, err
			}
			return s.Compressed(ctx, c, as)
		}
	}
	unlock, err := s.disk.Lock(ctx, "compress/"+c.Layer.Hex())
	if err != nil {
		return Blob{}, err
	}
	defer unlock()
	if b, _, err := s.exportable(c.Layer, as); err != nil || !b.Digest.IsZero() {
		return b, err // another process made it meanwhile
	}
	if n, ok := s.Size(c.Layer); ok && as.MediaType == MediaTypeTar && s.hasBlob(Blob{Digest: c.Layer, Size: n}) {
		b := Blob{Digest: c.Layer, MediaType: MediaTypeTar, Size: n, Proved: true} // who reads it compares the digest
		return b, s.AddBlob(ctx, c.Layer, b)
	}
	return s.compress(ctx, c, as)
}

// exportable returns the known blob that a layer is exported as, and the blobs that images claim to be the layer.
func (s *Store) exportable(layer digest.Digest, as Compression) (known Blob, claimed []Blob, err error) {
	blobs, err := s.Blobs(layer)
	for _, b := range blobs {
		switch {
		case !b.Proved && len(b.Origins) > 0:
			claimed = append(claimed, b)
		case as.takes(b) && (len(b.Origins) > 0 || s.hasBlob(b)):
			return b, claimed, nil
		}
	}
	return Blob{}, claimed, err
}

func (s *Store) compress(ctx context.Context, c *Chain, as Compression) (Blob, error) {
	r, _, err := s.openStream(ctx, c.Layer)
	if err != nil {
		return Blob{}, err
	}
	defer r.Close()
	x, err := s.press(as, func(w io.Writer) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
		return err
	})
	if err != nil {
		return Blob{}, s.diagnose(ctx, c.Layer, fmt.Errorf("layer %s: %w", c.Layer, err))
	}
	defer x.blob.Abort()
	return x.keep(ctx, c.Layer)
}

// decompress returns the uncompressed bytes of r, whatever its compression; closing it closes r.
func decompress(r io.ReadCloser) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		r.Close()
		return nil, err
	}
	var z io.Reader = in
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err = gzip.NewReader(in)
	case len(magic) == 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderMaxMemory(256<<20)); err == nil {
			z = d.IOReadCloser()
		}
	default:
		err = nil
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return &drained{z: z, under: in, c: r}, nil
}

// A drained reader reads what follows the compressed data too, so that a digest over the
// bytes under it is complete, and reports what the bytes under it say at their end.
type drained struct {
	z     io.Reader
	under io.Reader
	c     io.Closer
}

func (d *drained) Read(p []byte) (int, error) {
	n, err := d.z.Read(p)
	if err == io.EOF {
		if _, e := io.Copy(io.Discard, d.under); e != nil {
			err = e
		}
	}
	return n, err
}

func (d *drained) Close() error {
	if z, ok := d.z.(io.Closer); ok {
		z.Close()
	}
	return d.c.Close()
}
