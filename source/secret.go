package source

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/util/suggest"
	"github.com/tonistiigi/go-csvvalue"
)

// maxSecret is the most bytes of a secret, as on BuildKit.
const maxSecret = 500 << 10

// A Secret says where a value is that a build must not keep.
type Secret struct {
	ID   string
	File string // its path, or else
	Env  string // the name of a variable
}

// ParseSecret reads the text of --secret: id=ID with src=FILE or env=VARIABLE. When neither is said, the ID is that of
// a variable that is set, or else of a file. A nil error promises that the secret is there.
func ParseSecret(text string) (Secret, error) {
	var s Secret
	var kind string
	err := fields(text, func(key, value string) error {
		switch key {
		case "type":
			kind = value
			if value != "file" && value != "env" {
				return fmt.Errorf("unsupported secret type %q", value)
			}
		case "id":
			s.ID = value
		case "src", "source":
			s.File = value
		case "env":
			s.Env = value
		default:
			return unexpected(key, text, "type", "id", "src", "source", "env")
		}
		return nil
	})
	switch {
	case err != nil:
		return s, err
	case s.ID == "":
		return s, errors.New("secret missing ID")
	case kind == "env" && s.Env == "":
		s.Env, s.File = s.File, ""
	}
	if _, set := os.LookupEnv(s.ID); s.File == "" && s.Env == "" && set && kind != "file" {
		s.Env = s.ID
	}
	if s.Env == "" && s.File == "" {
		if kind == "env" {
			s.Env = s.ID
		} else {
			s.File = s.ID
		}
	}
	if s.Env != "" {
		return s, nil
	}
	fi, err := os.Stat(s.File)
	if err == nil && fi.Size() > maxSecret {
		err = s.tooBig()
	}
	return s, err
}

func (s Secret) tooBig() error { return fmt.Errorf("secret %s too big. max size 500KiB", s.ID) }

// Read returns the value.
func (s Secret) Read() ([]byte, error) {
	if s.Env != "" {
		return []byte(os.Getenv(s.Env)), nil
	}
	b, err := os.ReadFile(s.File)
	if err == nil && len(b) > maxSecret {
		err = s.tooBig()
	}
	return b, err
}

// fields calls f for each "key=value" of a comma separated text.
func fields(text string, f func(key, value string) error) error {
	list, err := csvvalue.Fields(text, nil)
	if err != nil {
		return err
	}
	for _, field := range list {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		if err := f(strings.ToLower(key), value); err != nil {
			return err
		}
	}
	return nil
}

func unexpected(key, text string, known ...string) error {
	return suggest.WrapError(fmt.Errorf("unexpected key '%s' in '%s'", key, text), key, slices.Clone(known), true)
}
