package lower

import "github.com/moby/buildkit/frontend/dockerfile/instructions"

// applyUser keeps the text; whom it names is decided by the passwd file of the
// next RUN or WORKDIR.
func (s *stage) applyUser(c *instructions.UserCommand) error {
	user, err := s.expand(c.User)
	if err != nil {
		return err
	}
	s.image.Config.User = user
	return s.record("USER "+user, false)
}
