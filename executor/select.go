package executor

import (
	"context"
	"path"
	"strings"

	"github.com/moby/patternmatcher"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A selection is what a Copy takes of one source: of a folder, what is below it.
type selection struct {
	ctx              context.Context
	tree             snapshot.Tree
	root             string
	include, exclude *patternmatcher.PatternMatcher // nil: everything, nothing
	// way is the path that all matches of include are at or below.
	way   string
	yield func(selected) error
	found int
}

// A selected is an entry of a selection. One that is only passed is a folder on the way to others.
type selected struct {
	snapshot.Entry
	passed bool
}

// A standing is what the patterns say of a folder, for what is in it.
type standing struct{ include, exclude patternmatcher.MatchInfo }

// selectBelow calls yield for what c takes of src below root, a folder that src names, with folders before what they hold. It keeps
// nothing of it: there may be hundreds of thousands.
func selectBelow(ctx context.Context, t snapshot.Tree, root string, c *llb.Copy, src llb.Source, yield func(selected) error) error {
	s := &selection{ctx: ctx, tree: t, root: root, way: ".", yield: yield}
	var err error
	if src.Include != "" {
		if s.include, err = patternmatcher.New([]string{src.Include}); err != nil {
			return err
		}
		s.way = wayTo(src.Include)
	}
	if len(c.Exclude) > 0 {
		if s.exclude, err = patternmatcher.New(c.Exclude); err != nil {
			return err
		}
	}
	if err := s.children(root, standing{}, nil); err != nil {
		return err
	}
	if s.found == 0 && src.Required {
		return &NotFoundError{path.Join(src.Path, src.Include)}
	}
	return nil
}

func (s *selection) add(e *snapshot.Entry, passed bool) error {
	s.found++
	return s.yield(selected{*e, passed})
}

// wayTo returns the path that every match of pattern is at or below, as far as it has no wildcards.
func wayTo(pattern string) string {
	i := strings.IndexAny(pattern, `*?[\!`)
	if i < 0 {
		return pattern
	}
	return path.Dir(pattern[:i] + "x")
}

// children adds what is in dir. The folders of passed are on the way to it, and not added yet.
func (s *selection) children(dir string, above standing, passed []*snapshot.Entry) error {
	entries, err := s.tree.ReadDir(dir)
	if err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if err := context.Cause(s.ctx); err != nil {
			return err
		}
		taken, enter, below, err := s.judge(e, above)
		if err != nil {
			return err
		}
		if taken {
			for _, p := range passed {
				if err := s.add(p, true); err != nil {
					return err
				}
			}
			passed = nil
			if err := s.add(e, false); err != nil {
				return err
			}
		}
		if !enter {
			continue
		}
		before := s.found
		on := passed
		if !taken {
			on = append(passed[:len(passed):len(passed)], e)
		}
		if err := s.children(e.Path, below, on); err != nil {
			return err
		}
		if s.found > before {
			passed = nil
		}
	}
	return nil
}

// judge tells whether e is taken, and whether something in it may be.
func (s *selection) judge(e *snapshot.Entry, above standing) (taken, enter bool, below standing, err error) {
	rel := relative(s.root, e.Path)
	taken = true
	if s.include != nil {
		if taken, below.include, err = s.include.MatchesUsingParentResults(rel, above.include); err != nil {
			return false, false, below, err
		}
	}
	excluded := false
	if s.exclude != nil {
		if excluded, below.exclude, err = s.exclude.MatchesUsingParentResults(rel, above.exclude); err != nil {
			return false, false, below, err
		}
	}
	switch {
	case e.Type != snapshot.Dir:
	case excluded:
		enter = s.exclude.Exclusions() // "!" patterns may want what is in it
	default:
		enter = taken || onWay(rel, s.way)
	}
	return taken && !excluded, enter, below, nil
}

// onWay reports whether dir leads to way, or is below it.
func onWay(dir, way string) bool {
	return way == "." || dir == way || strings.HasPrefix(way, dir+"/") || strings.HasPrefix(dir, way+"/")
}
