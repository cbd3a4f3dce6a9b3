package lower

import "github.com/moby/buildkit/frontend/dockerfile/instructions"

func (s *stage) applyLabel(c *instructions.LabelCommand) error {
	pairs, err := s.expandPairs(c.Labels)
	if err != nil {
		return err
	}
	if s.image.Config.Labels == nil {
		s.image.Config.Labels = map[string]string{}
	}
	s.lintPairs(c.Name(), pairs)
	text := "LABEL"
	for _, kv := range pairs {
		text += " " + kv.String()
		s.image.Config.Labels[kv.Key] = kv.Value
	}
	return s.record(text, false)
}
