package lower

import (
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyEntrypoint sets the entrypoint. A CMD of the base was meant for another
// entrypoint and goes; a CMD of this stage stays.
func (s *stage) applyEntrypoint(c *instructions.EntrypointCommand) error {
	s.lintOnce(c)
	s.lintShellForm(c.Name(), c.PrependShell)
	args := s.commandLine(c.ShellDependantCmdLine)
	s.image.Config.Entrypoint = args
	if s.once["CMD"] == nil {
		s.image.Config.Cmd = nil
	}
	return s.record(fmt.Sprintf("ENTRYPOINT %q", args), false)
}
