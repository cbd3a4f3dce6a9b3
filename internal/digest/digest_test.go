package digest

import (
	"context"
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
