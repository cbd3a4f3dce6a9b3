package lower

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyEnv sets variables. All of them are expanded before the first is set, so
// one line sees the values from before the line.
func (s *stage) applyEnv(c *instructions.EnvCommand) error {
	pairs, err := s.expandPairs(c.Env)
	if err != nil {
		return err
	}
	s.lintPairs(c.Name(), pairs)
	text := "ENV"
	for _, kv := range pairs {
		s.lintSecret("ENV", kv.Key)
		text += " " + kv.String()
		s.env.set(kv.Key, kv.Value)
		s.image.Config.Env = setEnv(s.image.Config.Env, kv.Key, kv.Value)
	}
	return s.record(text, false)
}

// setEnv changes a variable where it stands, or appends it.
func setEnv(env []string, key, value string) []string {
	kv := key + "=" + value
	i := slices.IndexFunc(env, func(have string) bool {
		k, _, _ := strings.Cut(have, "=")
		return k == key
	})
	if i < 0 {
		return append(env, kv)
	}
	env[i] = kv
	return env
}

// expandPairs expands keys and values.
func (s *stage) expandPairs(pairs instructions.KeyValuePairs) (_ instructions.KeyValuePairs, err error) {
	expanded := slices.Clone(pairs)
	for i := range expanded {
		kv := &expanded[i]
		if kv.Key, err = s.expand(kv.Key); err != nil {
			return nil, err
		}
		if kv.Value, err = s.expand(kv.Value); err != nil {
			return nil, err
		}
	}
	return expanded, nil
}
