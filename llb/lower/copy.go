package lower

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// applyCopy copies from the main context, a stage, an image or a named context.
func (s *stage) applyCopy(c *instructions.CopyCommand) error {
	expanded := *c
	t := transfer{paths: &expanded.SourcesAndDest, chown: &expanded.Chown, chmod: &expanded.Chmod,
		exclude: &expanded.ExcludePatterns, link: c.Link, parents: c.Parents}
	if err := s.expandTransfer(t); err != nil {
		return err
	}
	for _, path := range expanded.SourcePaths {
		if kind := parser.Remote(path); kind != "" {
			return fmt.Errorf("source can't be a %s for COPY", kind)
		}
		if c.From == "" {
			s.lintIgnored("Copy", path)
		}
	}
	input, err := s.copySource(c.From)
	if err != nil {
		return err
	}
	return s.transfer("COPY", t, input, false)
}

// copySource returns what a COPY reads.
func (s *stage) copySource(from string) (*llb.Vertex, error) {
	if len(s.current.sources) == 0 {
		return s.mainContext(), nil
	}
	source := s.current.sources[0]
	switch {
	case !source.done:
		return nil, fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", from, s.name)
	case source.folder != nil:
		return source.folder, nil
	}
	return source.root, nil
}

// A transfer is what COPY and ADD have in common; it points into a copy of the
// instruction.
type transfer struct {
	paths         *instructions.SourcesAndDest
	chown, chmod  *string
	exclude       *[]string
	link, parents bool
	// remote returns what lies elsewhere under the name of a source, or nil for a path. COPY has none.
	remote func(src string) (*remote, error)
}

func (s *stage) expandTransfer(t transfer) (err error) {
	if t.paths.SourcePaths, err = s.expandAll(t.paths.SourcePaths); err != nil {
		return err
	}
	if *t.exclude, err = s.expandAll(*t.exclude); err != nil {
		return err
	}
	for _, word := range []*string{&t.paths.DestPath, t.chown, t.chmod} {
		if *word, err = s.expand(*word); err != nil {
			return err
		}
	}
	return nil
}

// transfer adds the step of a COPY or ADD that is expanded and supported.
func (s *stage) transfer(name string, t transfer, input *llb.Vertex, unpack bool) error {
	op, text, err := s.copyAction(name, t)
	if err != nil {
		return err
	}
	op.Unpack = unpack
	documents, copyDocuments, err := s.copyDocuments(t.paths.SourceContents, *op)
	if err != nil {
		return err
	}
	actions, inputs, err := s.copies(t, op, input)
	if err != nil {
		return err
	}
	for _, src := range t.paths.SourcePaths {
		text += " " + src
	}
	for _, doc := range t.paths.SourceContents {
		text += " <<" + doc.Path
	}
	if documents != nil {
		actions, inputs = append(actions, copyDocuments), append(inputs, documents)
		copyDocuments.From = len(inputs)
	}
	label := s.describe(s.current.Command.(fmt.Stringer).String(), s.lex, s.env)
	if t.link && op.Mode == "" { // as on BuildKit, --chmod makes a link an ordinary copy
		s.linkStep(&llb.File{Actions: actions}, label, inputs)
	} else {
		s.step(&llb.File{Actions: actions}, label, inputs...)
	}
	return s.record(text+" "+t.paths.DestPath+" # buildkit", true)
}

// copies returns the copies of the sources, each like op, with the inputs that they read. Sources that follow
// each other in input are one copy; what lies elsewhere is one each.
func (s *stage) copies(t transfer, op *llb.Copy, input *llb.Vertex) (actions []llb.Action, inputs []*llb.Vertex, err error) {
	var last *llb.Copy // from input
	from := 0          // of input
	for _, src := range t.paths.SourcePaths {
		if t.remote != nil {
			far, err := t.remote(src)
			if err != nil {
				return nil, nil, err
			}
			if far != nil {
				inputs = append(inputs, far.vertex)
				c := *op
				c.From, c.Sources, c.Unpack = len(inputs), []llb.Source{{Path: far.path}}, far.unpack
				actions, last = append(actions, &c), nil
				continue
			}
		}
		if from == 0 {
			inputs = append(inputs, input)
			from = len(inputs)
		}
		if last == nil {
			c := *op
			c.From, last = from, &c
			actions = append(actions, last)
		}
		last.Sources = append(last.Sources, newSource(src, t.parents))
	}
	return actions, inputs, nil
}

// copyAction returns the action of a COPY or ADD but for its sources, and the text of its flags for the history.
func (s *stage) copyAction(name string, t transfer) (*llb.Copy, string, error) {
	op := &llb.Copy{From: 1, Dest: destination(s.workdir(), t.paths.DestPath), Exclude: *t.exclude}
	if t.parents {
		name += " --parents"
	}
	if *t.chown != "" {
		if t.link && !numericOwner(*t.chown) {
			return nil, "", fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link, "+
				"use numeric uid[:gid] instead", *t.chown)
		}
		op.Owner = &llb.Owner{Text: *t.chown}
		name += " --chown=" + *t.chown
	}
	if *t.chmod != "" {
		var err error
		if op.Mode, err = parseMode(*t.chmod); err != nil {
			return nil, "", err
		}
		name += " --chmod=" + *t.chmod
	}
	if _, err := patternmatcher.New(op.Exclude); err != nil {
		return nil, "", fmt.Errorf("--exclude: %w", err)
	}
	return op, name, nil
}

// linkStep makes a layer of its own of op, whatever it is put on: a new base does not make it anew.
func (s *stage) linkStep(op llb.Op, text string, inputs []*llb.Vertex) {
	below, number := s.root, s.steps
	s.root = s.scratch
	s.step(op, text, inputs...)
	layer := s.root
	s.root, s.steps = below, number // both are one step of the Dockerfile
	s.step(&llb.Merge{}, "LINK "+text, layer)
}

// newSource reads a source. With --parents its path is kept, from the element "." on if there is one.
func newSource(src string, parents bool) llb.Source {
	var pattern string
	if parents {
		before, after, ok := strings.Cut(src, "/./")
		if !ok {
			before, after = "/", src
		}
		src, pattern = before, strings.TrimPrefix(path.Join("/", after), "/")
	}
	clean := path.Join("/", src) // never above the root
	out := llb.Source{Path: clean, Wildcard: hasWildcard(clean), Include: pattern}
	out.Required = pattern != "" && !out.Wildcard && !hasWildcard(pattern)
	return out
}

// numericOwner reports whether the text of --chown needs no passwd file.
func numericOwner(text string) bool {
	user, group, _ := strings.Cut(text, ":")
	for _, id := range []string{user, group} {
		if _, err := strconv.ParseUint(id, 10, 31); id != "" && err != nil {
			return false
		}
	}
	return true
}

// destination returns the absolute path of dest. A trailing slash stays, and
// everything else that can only name a directory gets one.
func destination(workdir, dest string) string {
	abs := path.Clean(dest)
	if !path.IsAbs(dest) {
		abs = path.Join(workdir, dest)
	}
	isDir := dest == "" || dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	if isDir && abs != "/" {
		abs += "/"
	}
	return abs
}

// parseMode checks the value of --chmod and returns it as llb.Copy has it.
func parseMode(s string) (string, error) {
	octal := fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	bits, err := strconv.ParseUint(s, 8, 32)
	switch {
	case err == nil && bits <= 0o7777:
		return fmt.Sprintf("%04o", bits), nil
	case err == nil, s[0] >= '0' && s[0] <= '9':
		return "", octal
	}
	if _, err := mode.Parse(s); err != nil {
		return "", fmt.Errorf("invalid chmod parameter: '%s': %w", s, err)
	}
	return s, nil
}

// hasWildcard reports whether p is a pattern: whether it has a meta character
// that no backslash escapes.
func hasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}
