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
