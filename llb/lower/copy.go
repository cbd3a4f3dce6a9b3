package lower

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// applyCopy copies from the main context, a stage, an image or a named context.
func (s *stage) applyCopy(c *instructions.CopyCommand) error {
	expanded := *c
	t := transfer{paths: &expanded.SourcesAndDest, chown: &expanded.Chown, chmod: &expanded.Chmod}
	if err := s.expandTransfer(t); err != nil {
		return err
	}
	if err := s.file.Supports(&expanded); err != nil {
		return err
	}
	for _, path := range expanded.SourcePaths {
		if kind := parser.Remote(path); kind != "" {
			return fmt.Errorf("source can't be a %s for COPY", kind)
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
	paths        *instructions.SourcesAndDest
	chown, chmod *string
	// remote returns what lies elsewhere under the name of a source, or nil for a path. COPY has none.
	remote func(src string) (*remote, error)
}

func (s *stage) expandTransfer(t transfer) (err error) {
	if t.paths.SourcePaths, err = s.expandAll(t.paths.SourcePaths); err != nil {
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
	op := &llb.Copy{From: 1, Dest: destination(s.workdir(), t.paths.DestPath), Unpack: unpack}
	text := name
	if *t.chown != "" {
		op.Owner = &llb.Owner{Text: *t.chown}
		text += " --chown=" + *t.chown
	}
	if *t.chmod != "" {
		mode, err := parseMode(*t.chmod)
		if err != nil {
			return err
		}
		op.Mode = &mode
		text += " --chmod=" + *t.chmod
	}
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
	s.step(&llb.File{Actions: actions}, s.describe(s.current.Command.(fmt.Stringer).String(), s.lex, s.env), inputs...)
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
		clean := path.Join("/", src) // never above the root
		last.Sources = append(last.Sources, llb.Source{Path: clean, Wildcard: hasWildcard(clean)})
	}
	return actions, inputs, nil
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

func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o7777 {
		return 0, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	return uint32(mode), nil
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
