package lower

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

const epochName = "SOURCE_DATE_EPOCH"

// readEpoch finds the time of what is made: that of the command line, or of an ARG before the first FROM. Its value may
// be the name of a context or a stage, which has a time if it is a commit or comes from a server.
func (l *lowering) readEpoch(ctx context.Context) error {
	value, given := l.opt.BuildArgs[epochName]
	if !given {
		value, _ = l.globals.Get(epochName)
	}
	if l.opt.Epoch != nil || value == "" {
		return nil
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		t := time.Unix(seconds, 0).UTC()
		l.opt.Epoch = &t
		return nil
	}
	source, err := l.epochSource(value)
	if err != nil {
		return err
	}
	l.unsetEpoch()
	if source == nil || l.opt.SourceTime == nil {
		return nil
	}
	if l.opt.Epoch, err = l.opt.SourceTime(ctx, source); err != nil || l.opt.Epoch == nil {
		return err
	}
	value = strconv.FormatInt(l.opt.Epoch.Unix(), 10)
	if given {
		l.opt.BuildArgs[epochName] = value
	} else {
		l.globals.set(epochName, value)
	}
	return nil
}

// unsetEpoch makes the argument one that nobody has given.
func (l *lowering) unsetEpoch() {
	l.opt.BuildArgs = maps.Clone(l.opt.BuildArgs)
	delete(l.opt.BuildArgs, epochName)
	l.globals.unset(epochName)
}

// epochSource returns the source that lies elsewhere and is called name: nil when what is called so is a folder.
func (l *lowering) epochSource(name string) (*llb.Vertex, error) {
	if name == "context" {
		return remoteOf(l.opt.Context), nil
	}
	if c := l.namedContext(name, l.opt.Platform); c != nil {
		return remoteOf(c.Source), nil
	}
	for _, from := range l.file.Stages {
		if from.Name == "" || !strings.EqualFold(from.Name, name) {
			continue
		}
		s := &stage{lowering: l, from: from, platform: l.opt.Platform, env: l.globals.clone()}
		s.env.unset(epochName)
		v, err := s.onlySource()
		return v, l.file.At(from.Location, err)
	}
	return nil, &parser.Error{Msg: fmt.Sprintf("invalid %s: %s", epochName, name), Hint: "it is a number of seconds since 1970, or the name of a context or a stage"}
}

// remoteOf returns the source of a context, which may be unpacked.
func remoteOf(v *llb.Vertex) *llb.Vertex {
	if v == nil || v.Remote() {
		return v
	}
	for _, in := range v.Inputs() {
		if in.Remote() {
			return in
		}
	}
	return nil
}

var errOneAdd = errors.New(epochName + " stage must contain exactly one remote ADD")

// onlySource returns what a stage consists of that is there to have a time: FROM scratch, and one ADD of a URL or a git repository.
func (s *stage) onlySource() (*llb.Vertex, error) {
	base, err := s.expandWord(s.lex, s.from.BaseName, s.env)
	switch {
	case err != nil:
		return nil, err
	case base.Result != scratch:
		return nil, errors.New(epochName + " stage must use FROM scratch")
	}
	var found *llb.Vertex
	for _, cmd := range s.from.Commands {
		s.current = command{Command: cmd}
		switch c := cmd.(type) {
		case *instructions.ArgCommand:
			err = s.setArgs(c)
		case *instructions.AddCommand:
			if found != nil {
				return nil, errOneAdd
			}
			found, err = s.sourceOf(c)
		default:
			err = fmt.Errorf("%s stage does not meet source-only requirements: unsupported %s instruction", epochName, cmd.Name())
		}
		if err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, errOneAdd
	}
	return found, nil
}

// setArgs declares arguments without a word to anybody.
func (s *stage) setArgs(c *instructions.ArgCommand) error {
	for _, arg := range c.Args {
		value, ok := s.opt.BuildArgs[arg.Key]
		if !ok && arg.Value != nil {
			expanded, err := s.expandWord(s.lex, *arg.Value, s.env)
			if err != nil {
				return err
			}
			value, ok = expanded.Result, true
		}
		if ok {
			s.env.set(arg.Key, value)
		}
	}
	return nil
}

func (s *stage) sourceOf(c *instructions.AddCommand) (*llb.Vertex, error) {
	if len(c.SourceContents) != 0 || len(c.SourcePaths) != 1 {
		return nil, errors.New(epochName + " stage must contain exactly one remote ADD source")
	}
	src, err := s.expandWord(s.lex, c.SourcePaths[0], s.env)
	if err != nil {
		return nil, err
	}
	sum, err := s.expandWord(s.lex, c.Checksum, s.env)
	if err != nil {
		return nil, err
	}
	expanded := *c
	expanded.Checksum = sum.Result
	r, err := s.remote(&expanded, src.Result)
	if err == nil && r == nil {
		err = errors.New(epochName + " stage source must be a single HTTP(S) or Git ADD")
	}
	if err != nil {
		return nil, err
	}
	return r.vertex, nil
}
