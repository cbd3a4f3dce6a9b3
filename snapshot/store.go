package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A Store keeps layers and chains in a cache.Store. It is safe for concurrent use, by other processes too.
type Store struct {
	disk *cache.Store
	// fetch brings the compressed bytes of a layer that is known but not here.
	fetch Fetch
	boot  string // the boot that new trees are made in

	packed  chunkIndex    // chunks that are in compressed blobs
	packing chan struct{} // a place for each chunk that is being compressed

	chains sync.Map // digest.Digest -> *Chain
	tocs   sync.Map // digest.Digest -> *TOC
	views  sync.Map // digest.Digest -> *View: those of chains
	used   sync.Map // digest.Digest -> true: chains that are held
}

// Fetch opens the bytes of b at one of its origins. The caller verifies them.
type Fetch func(ctx context.Context, b Blob) (io.ReadCloser, error)

// New returns a Store in disk.
func New(disk *cache.Store, fetch Fetch) *Store {
	return &Store{disk: disk, fetch: fetch, boot: cache.Boot(), packed: chunkIndex{disk: disk}, packing: newSlots()}
}

// A Blob is a form of a layer that goes into images: the bytes of the tar, compressed or not.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	// MediaType is that of the OCI image specification.
	MediaType string `json:"mediaType"`
	// Level is the level of compression it was made with, as a Compression has it. It says nothing of one that came with an image.
	Level int `json:"level,omitempty"`
	// Format is the compressorFormat it was made with. It is 0 for one that came with an image.
	Format int   `json:"format,omitempty"`
	Size   int64 `json:"size"` // in bytes
	// Origins are repositories that have the blob, like "docker.io/library/debian".
	Origins []string `json:"origins,omitempty"`
	// Proved is set once the bytes were uncompressed and gave the layer. Until then it is
	// only what an image claims, and images are hostile.
	Proved bool `json:"proved,omitempty"`
}

// Media types of layers, by the OCI image specification.
const (
	MediaTypeTar     = "application/vnd.oci.image.layer.v1.tar"
	MediaTypeTarGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeTarZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

func layerFile(layer digest.Digest, name string) string {
	h := layer.Hex()
	return filepath.Join(layerDir, h[:2], h[2:], name)
}

// Blobs returns the known blobs of a layer, here or elsewhere.
func (s *Store) Blobs(layer digest.Digest) ([]Blob, error) {
	b, err := s.disk.ReadFile(layerFile(layer, "blobs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Blob
	if json.Unmarshal(b, &list) != nil {
		return nil, nil // damaged: none is known
	}
	return list, nil
}

// AddBlob records that b is a form of layer, and holds the layer. Origins of the same blob are joined.
func (s *Store) AddBlob(ctx context.Context, layer digest.Digest, b Blob) error {
	if err := s.disk.Hold(layer); err != nil {
		return err
	}
	return s.editBlobs(ctx, layer, func(list []Blob) []Blob {
		i := slices.IndexFunc(list, func(x Blob) bool { return x.Digest == b.Digest })
		if i < 0 {
			return append(list, b)
		}
		for _, o := range b.Origins {
			if !slices.Contains(list[i].Origins, o) {
				list[i].Origins = append(slices.Clone(list[i].Origins), o)
			}
		}
		list[i].Proved = list[i].Proved || b.Proved
		list[i].Format = max(list[i].Format, b.Format)
		return list
	})
}

// editBlobs changes the record of a layer's blobs, alone among all processes.
func (s *Store) editBlobs(ctx context.Context, layer digest.Digest, edit func([]Blob) []Blob) error {
	unlock, err := s.disk.Lock(ctx, "blobs/"+layer.Hex())
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.Blobs(layer)
	if err != nil {
		return err
	}
	list := edit(slices.Clone(old))
	if slices.EqualFunc(old, list, func(a, b Blob) bool {
		return a.Digest == b.Digest && a.Proved == b.Proved && a.Format == b.Format && slices.Equal(a.Origins, b.Origins)
	}) {
		return nil
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return s.disk.WriteFile(layerFile(layer, "blobs"), append(data, '\n'))
}

// readTOC returns the table of contents that is kept of a layer. A damaged one is fs.ErrNotExist.
func (s *Store) readTOC(layer digest.Digest) (*TOC, error) {
	if t, ok := s.tocs.Load(layer); ok {
		return t.(*TOC), nil
	}
	b, err := s.disk.ReadFile(layerFile(layer, "toc"))
	if err != nil {
		return nil, err
	}
	t, err := ParseTOC(b)
	if err != nil || t.DiffID != layer {
		return nil, fmt.Errorf("toc of %s: damaged: %w", layer, fs.ErrNotExist)
	}
	s.tocs.Store(layer, t)
	return t, nil
}

// writeTOC keeps the table of contents of a layer, and holds the layer: what will name it may not be written yet.
func (s *Store) writeTOC(t *TOC) error {
	if err := s.disk.Hold(t.DiffID); err != nil {
		return err
	}
	if s.disk.Used(layerFile(t.DiffID, "toc")).IsZero() {
		s.tocs.Delete(t.DiffID) // another process has evicted it
	} else if _, err := s.readTOC(t.DiffID); err == nil {
		return nil
	}
	if err := s.disk.WriteStream(layerFile(t.DiffID, "toc"), t.Write); err != nil {
		return err
	}
	s.tocs.Store(t.DiffID, t)
	return nil
}

// TOC returns the table of contents of a layer. Where none is kept yet, the layer
// is downloaded and read for it.
func (s *Store) TOC(ctx context.Context, layer digest.Digest) (*TOC, error) {
	if t, err := s.readTOC(layer); !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	return s.inflate(ctx, layer)
}

// inflate makes the tar of a layer from another form of it, and its table of contents on the way.
func (s *Store) inflate(ctx context.Context, layer digest.Digest) (*TOC, error) {
	unlock, err := s.disk.Lock(ctx, "layer/"+layer.Hex())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t, err := s.readTOC(layer); err == nil { // another process was first
		if n, ok := s.disk.BlobSize(layer); ok && n == t.Size {
			return t, nil
		}
	}
	r, from, err := s.openStream(ctx, layer)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	w, err := s.disk.NewBlob()
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	t, err := readLayer(ctx, io.TeeReader(r, w), nil)
	if err != nil {
		return nil, s.diagnose(ctx, layer, fmt.Errorf("layer %s: %w", layer, err))
	}
	if err := s.settle(ctx, layer, from, t); err != nil {
		return nil, err
	}
	if err := s.writeTOC(t); err != nil {
		return nil, err
	}
	_, err = w.Commit()
	return t, err
}

// Making says how a layer is made, beside what is in it.
type Making struct {
	Created time.Time
	// Links tells the owners of what can carry no mark, for a layer that is captured in a user namespace with one id.
	Links LinkOwner
	// Packer, when not nil, compresses the layer while it is made.
	Packer *Packer
	// Awaited says that other work waits for the layer: it must not wait for its compression.
	Awaited bool
}

// commit records a new layer on parent and keeps its first form. The form, which may be large, comes last: when a
// record cannot be written, nothing stays that no other record knows. Records without a form are no layer. tar is the size of
// the form when it is a tar.
func (s *Store) commit(parent digest.Digest, toc *TOC, tar int64, created time.Time, keep func() error) (digest.Digest, error) {
	if err := s.writeTOC(toc); err != nil {
		return digest.Digest{}, err
	}
	id, err := s.append(Chain{Parent: parent, Layer: toc.DiffID, Content: toc.Content, Tar: tar, Created: created})
	if err != nil {
		return digest.Digest{}, err
	}
	return id, keep()
}

// settle compares what a stream gave with the layer it was read for. A blob that gave it is proved;
// one that did not was never a form of this layer, whatever an image claims.
func (s *Store) settle(ctx context.Context, layer digest.Digest, from *Blob, t *TOC) error {
	if t.DiffID == layer {
		if from == nil || from.Proved {
			return nil
		}
		proved := *from
		proved.Proved = true
		return s.AddBlob(ctx, layer, proved)
	}
	err := fmt.Errorf("layer %s: its uncompressed bytes have the digest %s", layer, t.DiffID)
	if from == nil {
		return err
	}
	left := 0
	err = errors.Join(err, s.editBlobs(ctx, layer, func(list []Blob) []Blob {
		list = slices.DeleteFunc(list, func(b Blob) bool { return b.Digest == from.Digest })
		left = len(list)
		return list
	}))
	if left > 0 { // another image says better
		return &cache.DamagedError{What: "layer " + layer.String(), Err: err}
	}
	return err
}

// ErrUnavailable says that a layer is in no form here and has no origin.
var ErrUnavailable = errors.New("its bytes are not in the store, and where to fetch them is not known")

// Size returns the size of a layer's tar in bytes, if it is known without downloading the layer.
func (s *Store) Size(layer digest.Digest) (int64, bool) {
	t, err := s.readTOC(layer)
	if err != nil {
		return 0, false
	}
	return t.Size, true
}
