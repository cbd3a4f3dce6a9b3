package cache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Key names a step by all that went into it. Being its own type, it cannot
// be mixed up with the digest of what came out.
type Key digest.Digest

// String returns the hex digits of k.
func (k Key) String() string { return digest.Digest(k).Hex() }

func (k Key) file() string { h := k.String(); return filepath.Join("index", h[:2], h[2:]) }

// Lookup returns the result recorded for key. A damaged entry is a miss, not an error.
func (s *Store) Lookup(_ context.Context, key Key) (digest.Digest, bool, error) {
	b, err := os.ReadFile(s.path(key.file()))
	if errors.Is(err, fs.ErrNotExist) {
		return digest.Digest{}, false, nil
	}
	if err != nil {
		return digest.Digest{}, false, err
	}
	d, ok := decodeEntry(b)
	return d, ok, nil
}

// Record remembers result under key, in place of what was there.
func (s *Store) Record(_ context.Context, key Key, result digest.Digest) error {
	return s.WriteFile(key.file(), encodeEntry(result))
}

// An entry is one line, "result sha256:...". A power cut may leave it empty or
// cut, which the fixed length shows.
func encodeEntry(d digest.Digest) []byte { return []byte("result sha256:" + d.Hex() + "\n") }

func decodeEntry(b []byte) (digest.Digest, bool) {
	line, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return digest.Digest{}, false
	}
	text, ok := strings.CutPrefix(line, "result ")
	if !ok {
		return digest.Digest{}, false
	}
	d, err := digest.Parse(text)
	return d, err == nil
}
