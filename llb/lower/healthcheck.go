package lower

import (
	"fmt"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyHealthcheck sets the check. Its shell form always runs in /bin/sh, SHELL
// or not.
func (s *stage) applyHealthcheck(c *instructions.HealthCheckCommand) error {
	s.lintOnce(c)
	check := *c.Health
	check.Test = slices.Clone(check.Test)
	s.image.Config.Healthcheck = &check
	return s.record(fmt.Sprintf("HEALTHCHECK %+v", check), false)
}
