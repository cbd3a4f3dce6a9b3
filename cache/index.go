package cache

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Key names a step by all that went into it. Being its own type, it cannot
// be mixed up with the digest of what came out.
type Key digest.Digest

// String returns the hex digits of k.
func (k Key) String() string { return digest.Digest(k).Hex() }

// File returns the name of the entry of k, relative to the store.
func (k Key) File() string { h := k.String(); return filepath.Join("index", h[:2], h[2:]) }

// Lookup returns the result recorded for key. A damaged entry is a miss, not an error.
func (s *Store) Lookup(_ context.Context, key Key) (digest.Digest, bool, error) {
	e, err := s.readEntry(key)
	return e.Result, !e.Result.IsZero(), err
}

// Record remembers result under key, in place of what was there.
func (s *Store) Record(_ context.Context, key Key, result digest.Digest) error {
	return s.WriteFile(key.File(), encodeEntry(result))
}

// An Eviction says when and why the store has given up a result.
type Eviction struct {
	At  time.Time // to the second
	Why string    // like "by the size limit"
}

// Evicted tells why there is no result for key any more, if there was one and it was evicted.
func (s *Store) Evicted(key Key) (Eviction, bool) {
	e, err := s.readEntry(key)
	return e.Eviction, err == nil && !e.Eviction.At.IsZero()
}

// Evict leaves e in the place of the result for key.
func (s *Store) Evict(key Key, e Eviction) error {
	return s.WriteFile(key.File(), encodeEviction(e))
}

// Forget removes all that is known of key.
func (s *Store) Forget(key Key) error {
	err := os.Remove(s.path(key.File()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// An Entry is what the index knows of a key: a result, or its eviction. One that has neither is damaged.
type Entry struct {
	Key      Key
	Result   digest.Digest
	Eviction Eviction
}

// Damaged reports whether nothing can be read of the entry.
func (e Entry) Damaged() bool { return e.Result.IsZero() && e.Eviction.At.IsZero() }

// Entries are all entries of the index. One that comes or goes meanwhile may be left out.
func (s *Store) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for d, err := range s.Digests("index") {
			var e Entry
			var gone bool
			if err == nil {
				e, gone, err = s.entry(Key(d))
			}
			if !gone && !yield(e, err) {
				return
			}
		}
	}
}

// readEntry returns the entry of key, without anything where there is none.
func (s *Store) readEntry(key Key) (Entry, error) {
	e, _, err := s.entry(key)
	return e, err
}

func (s *Store) entry(key Key) (e Entry, gone bool, err error) {
	b, err := readFile(s.path(key.File()))
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{Key: key}, true, nil
	}
	if err != nil {
		return Entry{Key: key}, false, err
	}
	e = decodeEntry(b)
	e.Key = key
	return e, false, nil
}

// An entry is one line, "result sha256:..." or "evicted TIME REASON". A power cut may leave it empty or
// cut, which the fixed length of the one and the end of the other shows.
func encodeEntry(d digest.Digest) []byte { return []byte("result sha256:" + d.Hex() + "\n") }

func encodeEviction(e Eviction) []byte {
	return []byte("evicted " + e.At.UTC().Format(time.RFC3339) + " " + e.Why + "\n")
}

// decodeEntry returns the zero Entry for what is damaged.
func decodeEntry(b []byte) (e Entry) {
	line, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return Entry{}
	}
	if text, ok := strings.CutPrefix(line, "result "); ok {
		e.Result, _ = digest.Parse(text) // the zero digest when it is none
	} else if text, ok := strings.CutPrefix(line, "evicted "); ok {
		at, why, _ := strings.Cut(text, " ")
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			e.Eviction = Eviction{t.UTC(), why}
		}
	}
	return e
}
