// Package digest names content and step definitions by SHA-256.
//
// A Digest is a fixed-size value: it compares with ==, works as a map key and
// cannot be half-parsed. Its text form is the OCI one, "sha256:" and 64 lower
// case hex digits. Other algorithms of the OCI registry are refused by Parse.
package digest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A Digest is a SHA-256 sum. The zero Digest means "nothing", for example an
// empty file system; no content hashes to it in practice.
type Digest [sha256.Size]byte

const prefix = "sha256:"

// Of returns the digest of b.
func Of(b []byte) Digest { return sha256.Sum256(b) }

// Parse reads the OCI text form. It refuses the zero Digest, which stands for none: nobody knows bytes that have it, and who asks
// for it, as a placeholder or to get past a check, must not get what nobody has looked at.
func Parse(s string) (Digest, error) {
	var d Digest
	h, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return d, fmt.Errorf("digest %q: only sha256 is supported", s)
	}
	if len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return d, fmt.Errorf("digest %q: want 64 lower case hex digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", s, err)
	}
	if d.IsZero() {
		return d, fmt.Errorf("digest %q: nothing has it", s)
	}
	return d, nil
}

// buffers are for FromReader: to clear a new one costs more than to hash a small file.
var buffers = sync.Pool{New: func() any { return new([128 << 10]byte) }}

// FromReader returns the digest of all that r holds, unless ctx ends before.
func FromReader(ctx context.Context, r io.Reader) (Digest, error) {
	h := sha256.New()
	buf := buffers.Get().(*[128 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.Read(buf[:])
		h.Write(buf[:n])
		if err == io.EOF {
			return Digest(h.Sum(nil)), nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return Digest{}, err
		}
	}
}

// Hex returns the 64 hex digits without the algorithm.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns the OCI text form; the zero Digest gives "".
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return prefix + d.Hex()
}

// Short returns the first 12 hex digits, for people.
func (d Digest) Short() string { return d.Hex()[:12] }

// IsZero reports whether d is the zero Digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler with the OCI text form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero Digest.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	*d, err = Parse(string(b))
	return err
}
