package digest

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// endless is a reader without an end that calls itself each time.
type endless func()

func (f endless) Read(p []byte) (int, error) { f(); return len(p), nil }

func TestFromReaderEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	if _, err := FromReader(ctx, endless(func() { cancel(cause) })); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	if d, err := FromReader(t.Context(), strings.NewReader("hello")); d != Of([]byte("hello")) || err != nil {
		t.Errorf("%v %v", d, err)
	}
}

// A record is what is hashed, whatever a Hasher collects before it hashes: keys of earlier builds stay what they are.
func TestHasherHashesTheRecord(t *testing.T) {
	long := strings.Repeat("x", 3*pendingSize)
	h := NewHasher("test/v1")
	want := []byte("\x07test/v1")
	for i, value := range []string{"", "a", long, "b", strings.Repeat("y", 127), strings.Repeat("z", 128)} {
		h.String("label", value)
		want = append(want, "\x05label"...)
		want = binary.AppendUvarint(want, uint64(len(value)))
		want = append(want, value...)
		if got := h.Sum(); got != Of(want) {
			t.Errorf("after %d fields: %s, want %s", i+1, got, Of(want))
		}
	}
}

func TestParse(t *testing.T) {
	whole := Of(nil).String()
	for text, ok := range map[string]bool{
		whole: true, strings.ToUpper(whole): false, whole[:70]: false, whole + "0": false, strings.TrimPrefix(whole, "sha256:"): false,
		"sha512:" + whole[7:]: false, "sha256:" + strings.Repeat("x", 64): false, "": false,
		// Zero stands for no digest: a check against it would be none.
		"sha256:" + strings.Repeat("0", 64): false,
	} {
		d, err := Parse(text)
		if (err == nil) != ok || ok && d.String() != text || !ok && !d.IsZero() && err == nil {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
}
