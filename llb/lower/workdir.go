package lower

import (
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/util/system"

	"github.com/seed0570efb0/build/llb"
)

// applyWorkdir changes the working directory and makes it, for the user in
// force. It is a layer even if the directory is there already.
func (s *stage) applyWorkdir(c *instructions.WorkdirCommand) error {
	word, err := s.expand(c.Path)
	if err != nil {
		return err
	}
	s.lintWorkdir(word)
	wd, err := system.NormalizeWorkdir(s.image.Config.WorkingDir, word, "linux")
	if err != nil {
		return err
	}
	s.image.Config.WorkingDir = wd
	if wd == "/" {
		return s.record("WORKDIR /", false)
	}
	mkdir := &llb.Mkdir{Path: s.workdir(), Mode: 0o755, Time: s.epoch()}
	if user := s.image.Config.User; user != "" {
		mkdir.Owner = &llb.Owner{Text: user}
	}
	s.step(&llb.File{Actions: []llb.Action{mkdir}}, s.describe(c.String(), s.lex, s.env))
	return s.record("WORKDIR "+wd, true)
}

// workdir returns the directory in force. The config has it as written, "/a/"
// and "/a/./b" included, since BuildKit's does; steps get it clean.
func (s *stage) workdir() string { return path.Join("/", s.image.Config.WorkingDir) }
