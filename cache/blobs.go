package cache

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/sparse"
)

// BlobDir is the folder of the blobs, for Digests.
const BlobDir = "blobs/sha256"

// BlobFile returns the name of a blob, relative to the store.
func BlobFile(d digest.Digest) string {
	h := d.Hex()
	return filepath.Join(BlobDir, h[:2], h[2:])
}

// A DamagedError says that what the store holds is not what it was when it was
// written. Whoever reports it has removed the damaged thing: doing the work again helps.
type DamagedError struct {
	What string
	Err  error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.What, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

// BlobSize returns the size of a blob in bytes, and whether the store has it.
func (s *Store) BlobSize(d digest.Digest) (int64, bool) {
	fi, err := os.Stat(s.path(BlobFile(d)))
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

// OpenBlob opens a blob for reading at any place. The bytes are not verified: the
// caller either reads them through a Verifier or checks what it takes out of them.
// A missing blob is fs.ErrNotExist.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	return os.Open(s.path(BlobFile(d)))
}

// ReadBlob returns the verified bytes of a small blob.
func (s *Store) ReadBlob(d digest.Digest) ([]byte, error) {
	b, err := readFile(s.path(BlobFile(d)))
	if err != nil {
		return nil, err
	}
	if digest.Of(b) != d {
		return nil, s.dropDamaged(d)
	}
	return b, nil
}

// WriteBlob stores b, holds it and returns its digest.
func (s *Store) WriteBlob(b []byte) (digest.Digest, error) {
	d := digest.Of(b)
	if err := s.Hold(d); err != nil {
		return d, err
	}
	if n, ok := s.BlobSize(d); ok && n == int64(len(b)) {
		return d, nil
	}
	return d, s.WriteFile(BlobFile(d), b)
}

// RemoveBlob removes a blob; one that is not there is no error.
func (s *Store) RemoveBlob(d digest.Digest) error {
	s.fresh.Delete(d)
	err := os.Remove(s.path(BlobFile(d)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) dropDamaged(d digest.Digest) error {
	err := s.RemoveBlob(d)
	if err == nil {
		err = errors.New("its bytes have another digest; it was removed")
	}
	return &DamagedError{"blob " + d.String(), err}
}

// VerifiedBlob opens a blob for reading once from start to end. At the end of the
// blob Read returns a *DamagedError in place of io.EOF when the bytes were not those of d,
// and the blob is gone. What was hashed when this Store wrote it is not hashed again.
func (s *Store) VerifiedBlob(d digest.Digest) (io.ReadCloser, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	if _, ok := s.fresh.Load(d); ok {
		return f, nil
	}
	return &verifiedBlob{f: f, h: sha256.New(), want: d, s: s}, nil
}

// CheckBlob reads a blob, whoever wrote it. A damaged one is a *DamagedError, and gone.
func (s *Store) CheckBlob(d digest.Digest) error {
	f, err := s.OpenBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, struct{ io.Reader }{&verifiedBlob{f: f, h: sha256.New(), want: d, s: s}})
	return err
}

type verifiedBlob struct {
	f    *os.File
	h    hash.Hash
	want digest.Digest
	s    *Store
}

func (v *verifiedBlob) Read(p []byte) (int, error) {
	n, err := v.f.Read(p)
	v.h.Write(p[:n])
	if err == io.EOF && !bytes.Equal(v.h.Sum(nil), v.want[:]) {
		err = v.s.dropDamaged(v.want)
	}
	return n, err
}

func (v *verifiedBlob) Close() error { return v.f.Close() }

// A BlobWriter takes the bytes of a blob whose digest is not known yet.
// It must end in Commit or Abort.
type BlobWriter struct {
	s   *Store
	f   *os.File
	out *sparse.Writer
	h   hash.Hash
	n   int64
}

// NewBlob starts a blob.
func (s *Store) NewBlob() (*BlobWriter, error) {
	dir, err := s.desk.folder(s)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir.Path, "b-")
	if err != nil {
		return nil, err
	}
	return &BlobWriter{s: s, f: f, out: sparse.NewWriter(f), h: sha256.New()}, nil
}

// Write implements io.Writer.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	w.h.Write(p[:n])
	w.n += int64(n)
	return n, err
}

// Digest returns the digest of what was written so far.
func (w *BlobWriter) Digest() digest.Digest { return digest.Digest(w.h.Sum(nil)) }

// Size returns the number of bytes written so far.
func (w *BlobWriter) Size() int64 { return w.n }

// Commit stores the blob under its digest, and holds it: what will name it is not written yet.
func (w *BlobWriter) Commit() (digest.Digest, error) {
	defer w.Abort()
	d := w.Digest()
	if err := w.out.Finish(); err != nil {
		return d, err
	}
	if err := w.f.Close(); err != nil {
		return d, err
	}
	if err := w.s.Hold(d); err != nil {
		return d, err
	}
	if err := w.s.publish(w.f.Name(), BlobFile(d)); err != nil {
		return d, err
	}
	w.s.fresh.Store(d, true)
	return d, nil
}

// Abort forgets the blob; after Commit it does nothing.
func (w *BlobWriter) Abort() {
	w.f.Close()
	os.Remove(w.f.Name())
}
