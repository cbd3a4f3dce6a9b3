package lower

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// applyOnbuild keeps a trigger for the stages and images that start from this one.
func (s *stage) applyOnbuild(c *instructions.OnbuildCommand) error {
	s.image.Config.OnBuild = append(s.image.Config.OnBuild, c.Expression)
	return nil
}

// addTriggers puts the triggers of the base before the instructions of the
// stage and reports whether one of them reads another stage or image.
func (s *stage) addTriggers() (linked bool, err error) {
	if s.isImage || s.context != nil {
		return false, nil
	}
	var commands []command
	for _, text := range s.triggers() {
		cmd, err := s.file.Trigger(text, s.from.Location)
		if err != nil {
			return false, err
		}
		c := command{Command: cmd, trigger: true}
		if err := s.linkCommand(&c); err != nil {
			return false, s.file.At(s.from.Location, err)
		}
		linked = linked || len(c.sources) > 0
		commands = append(commands, c)
	}
	s.commands = slices.Concat(commands, s.commands)
	return linked, nil
}

// triggers returns the ONBUILD lines of the stage's base, not those of its base's base.
func (s *stage) triggers() []string {
	if s.parent == nil {
		if s.found == nil || s.found.image == nil {
			return nil
		}
		return s.found.image.Config.Config.OnBuild
	}
	if s.parent.context != nil {
		return nil // another image stands in for what was written
	}
	var list []string
	for _, c := range s.parent.commands {
		if onbuild, ok := c.Command.(*instructions.OnbuildCommand); ok {
			list = append(list, onbuild.Expression)
		}
	}
	return list
}
