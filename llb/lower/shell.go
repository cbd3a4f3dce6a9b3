package lower

import (
	"fmt"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

func (s *stage) applyShell(c *instructions.ShellCommand) error {
	s.image.Config.Shell = slices.Clone(c.Shell)
	return s.record(fmt.Sprintf("SHELL %v", c.Shell), false)
}

// shell returns the shell in force, for the caller to append to.
func (s *stage) shell() []string {
	if sh := s.image.Config.Shell; len(sh) > 0 {
		return slices.Clone(sh)
	}
	return []string{"/bin/sh", "-c"}
}
