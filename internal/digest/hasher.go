package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
)

// A Hasher digests a record of labelled fields. Labels and values are
// length-prefixed, so no two different records share a preimage, and each
// record starts with a versioned domain such as "exec/v1", so records of
// different kinds never collide either.
type Hasher struct {
	h hash.Hash
	// pending is what h has not got yet: records are many short fields.
	pending []byte

	trace io.Writer
}

// pendingSize is how much a Hasher collects before it is hashed.
const pendingSize = 4 << 10

// Trace, when not nil, receives one line per hashed field of every Hasher made
// afterwards. It serves BUILD_DEBUG=hash and is set once, before any hashing.
var Trace io.Writer

// NewHasher starts a record of the given domain.
func NewHasher(domain string) *Hasher {
	h := &Hasher{h: sha256.New(), pending: make([]byte, 0, 256), trace: Trace}
	add(h, domain)
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash %s\n", domain)
	}
	return h
}

// add adds a length and as many bytes.
func add[T []byte | string](h *Hasher, text T) {
	h.pending = binary.AppendUvarint(h.pending, uint64(len(text)))
	h.pending = append(h.pending, text...)
	if len(h.pending) >= pendingSize {
		h.flush()
	}
}

func (h *Hasher) flush() {
	h.h.Write(h.pending)
	h.pending = h.pending[:0]
}

// field adds a field.
func field[T []byte | string](h *Hasher, label string, value T) {
	add(h, label)
	add(h, value)
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash   %s=%q\n", label, value)
	}
}

// Bytes adds a field.
func (h *Hasher) Bytes(label string, b []byte) { field(h, label, b) }

// String adds a field.
func (h *Hasher) String(label, s string) { field(h, label, s) }

// Digest adds a field.
func (h *Hasher) Digest(label string, d Digest) { h.Bytes(label, d[:]) }

// Int adds a field.
func (h *Hasher) Int(label string, v int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(v))
	h.Bytes(label, b[:])
}

// Bool adds a field.
func (h *Hasher) Bool(label string, v bool) {
	n := int64(0)
	if v {
		n = 1
	}
	h.Int(label, n)
}

// Strings adds a field whose value is the list, with its length, in order.
func (h *Hasher) Strings(label string, list []string) {
	h.Int(label, int64(len(list)))
	for _, s := range list {
		h.String("", s)
	}
}

// Map adds a field whose value is the map in the order of its keys.
func (h *Hasher) Map(label string, m map[string]string) {
	h.Int(label, int64(len(m)))
	if len(m) == 0 { // as most are
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		h.String(k, m[k])
	}
}

// Sum returns the digest of the record so far.
func (h *Hasher) Sum() Digest {
	h.flush()
	d := Digest(h.h.Sum(nil))
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash = %s\n", d)
	}
	return d
}
