package lower

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyVolume notes mount points. It makes no directory, and later steps may
// still change what is there.
func (s *stage) applyVolume(c *instructions.VolumeCommand) error {
	volumes, err := s.expandAll(c.Volumes)
	if err != nil {
		return err
	}
	if s.image.Config.Volumes == nil {
		s.image.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		s.image.Config.Volumes[v] = struct{}{}
	}
	return s.record(fmt.Sprintf("VOLUME %v", volumes), false)
}
