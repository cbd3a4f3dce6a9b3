package lower

import "github.com/moby/buildkit/frontend/dockerfile/instructions"

func (s *stage) applyMaintainer(c *instructions.MaintainerCommand) error {
	s.image.Author = c.Maintainer
	return s.record("MAINTAINER "+c.Maintainer, false)
}
