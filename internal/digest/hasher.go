package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"sort"
)

// A Hasher digests a record of labelled fields. Labels and values are
// length-prefixed, so no two different records share a preimage, and each
// record starts with a versioned domain such as "exec/v1", so records of
// different kinds never collide either.
type Hasher struct {
	h   hash.Hash
	buf [binary.MaxVarintLen64]byte

	trace io.Writer
}

// Trace, when not nil, receives one line per hashed field of every Hasher made
// afterwards. It serves BUILD_DEBUG=hash and is set once, before any hashing.
var Trace io.Writer

// NewHasher starts a record of the given domain.
func NewHasher(domain string) *Hasher {
	h := &Hasher{h: sha256.New(), trace: Trace}
	h.bytes([]byte(domain))
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash %s\n", domain)
	}
	return h
}

func (h *Hasher) bytes(b []byte) {
	n := binary.PutUvarint(h.buf[:], uint64(len(b)))
	h.h.Write(h.buf[:n])
	h.h.Write(b)
}

// Bytes adds a field.
func (h *Hasher) Bytes(label string, b []byte) {
	h.bytes([]byte(label))
	h.bytes(b)
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash   %s=%q\n", label, b)
	}
}

// String adds a field.
func (h *Hasher) String(label, s string) { h.Bytes(label, []byte(s)) }

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
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	h.Int(label, int64(len(keys)))
	for _, k := range keys {
		h.String(k, m[k])
	}
}

// Sum returns the digest of the record so far.
func (h *Hasher) Sum() Digest {
	d := Digest(h.h.Sum(nil))
	if h.trace != nil {
		fmt.Fprintf(h.trace, "hash = %s\n", d)
	}
	return d
}
