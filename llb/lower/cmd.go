package lower

import (
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyCmd sets the default command; the shell of this line is frozen into it.
func (s *stage) applyCmd(c *instructions.CmdCommand) error {
	s.lintOnce(c)
	s.lintShellForm(c.Name(), c.PrependShell)
	args := s.commandLine(c.ShellDependantCmdLine)
	s.image.Config.Cmd = args
	s.image.Config.ArgsEscaped = true //nolint:staticcheck // deprecated by OCI, written by BuildKit
	return s.record(fmt.Sprintf("CMD %q", args), false)
}
