package lower

import (
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/sys/signal"
)

func (s *stage) applyStopSignal(c *instructions.StopSignalCommand) error {
	name, err := s.expand(c.Signal)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(name); err != nil {
		return err
	}
	s.image.Config.StopSignal = name
	return s.record("STOPSIGNAL "+name, false)
}
