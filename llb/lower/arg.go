package lower

import (
	"maps"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// predefined returns the arguments that every Dockerfile may declare without a value.
func (l *lowering) predefined() *environment {
	build, target := l.opt.BuildPlatform, l.opt.Platform
	stage := l.opt.Target
	if stage == "" {
		stage = l.file.Stages[len(l.file.Stages)-1].Name
	}
	if stage == "" {
		stage = "default"
	}
	env := newEnvironment()
	for _, arg := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(build)},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(target)},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	} {
		value := arg[1]
		if given, ok := l.opt.BuildArgs[arg[0]]; ok {
			value = given
		}
		env.set(arg[0], value)
	}
	return env
}

// addGlobals adds the ARGs before the first FROM, left to right.
func (l *lowering) addGlobals() error {
	for _, c := range l.file.MetaArgs {
		for _, arg := range c.Args {
			info := OutlineArg{Name: arg.Key, Description: arg.DocComment, Location: c.Location()}
			value, ok := l.opt.BuildArgs[arg.Key]
			if !ok && arg.Value != nil {
				word, err := l.expandWord(l.lex, *arg.Value, l.globals)
				if err != nil {
					return l.file.At(c.Location(), err)
				}
				value, ok, info.uses = word.Result, true, word.Matched
				l.inheritUses(&info)
			}
			if ok {
				l.globals.set(arg.Key, value)
				info.Value = value
			}
			l.globalArgs[arg.Key] = info
		}
	}
	return nil
}

// inheritUses lets an argument that is made of its own former value use what that used.
func (l *lowering) inheritUses(arg *OutlineArg) {
	if _, ok := arg.uses[arg.Name]; !ok {
		return
	}
	delete(arg.uses, arg.Name)
	maps.Copy(arg.uses, l.globalArgs[arg.Name].uses)
}

// applyArg declares arguments, left to right, so that one may use those before it.
// A value of --build-arg is taken as it is; it beats the default, which beats the
// value of a global argument. Without any the argument is declared, but unset.
func (s *stage) applyArg(c *instructions.ArgCommand) error {
	text := "ARG"
	for _, arg := range c.Args {
		s.lintSecret("ARG", arg.Key)
		value, ok := s.opt.BuildArgs[arg.Key]
		own := true
		if !ok && arg.Value != nil {
			var err error
			if value, err = s.expand(*arg.Value); err != nil {
				return err
			}
			ok = true
		} else if !ok {
			value, ok = s.globals.Get(arg.Key)
			own = !ok
		}
		text += " " + arg.Key
		arg.Value = nil
		if ok {
			arg.Value = &value
			text += "=" + value
			if !notForRun(arg.Key) {
				s.env.set(arg.Key, value)
			}
		}
		s.declare(arg, own)
		s.args = append(s.args, arg)
	}
	return s.record(text, false)
}

// notForRun reports whether an argument is for the builder alone.
func notForRun(name string) bool { return strings.HasPrefix(name, "BUILDKIT_SBOM_SCAN_") }
