package lower

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/seed0570efb0/build/llb"
)

// documents returns a vertex with files in its root: here-documents become inputs like any other.
func (s *stage) documents(files []llb.Action) *llb.Vertex {
	return llb.New(&llb.File{Actions: files}, []*llb.Vertex{s.scratch}, llb.Meta{
		Label: "[internal] preparing inline document",
		Pos:   s.position(s.current.Location()),
	})
}

// copyDocuments returns the here-documents of a COPY or ADD as an input, or nil, and the copy action for them.
func (s *stage) copyDocuments(contents []instructions.SourceContent, like llb.Copy) (*llb.Vertex, *llb.Copy, error) {
	if len(contents) == 0 {
		return nil, nil, nil
	}
	var files []llb.Action
	like.Unpack = false
	for _, c := range contents {
		data := c.Data
		if c.Expand {
			var err error
			if data, err = s.expandDocument(data); err != nil {
				return nil, nil, err
			}
		}
		name := path.Join("/", c.Path)
		files = append(files, &llb.Mkfile{Path: name, Mode: 0o644, Data: []byte(data), Time: s.epoch()})
		like.Sources = append(like.Sources, llb.Source{Path: name})
	}
	return s.documents(files), &like, nil
}

// expandDocument expands the variables of a here-document. Quotes are text in it, and the escape
// character is the backslash whatever the directive says.
func (s *stage) expandDocument(text string) (string, error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	expanded, err := s.expandText(lex, text, s.env)
	if err == nil {
		s.lintUnset(expanded.Unmatched)
	}
	return expanded.Result, err
}

// pipes is where the script of a RUN is that names its interpreter. All of /dev is thrown away.
const pipes = "/dev/pipes"

// script makes the command line of a RUN with here-documents. A lone one is the script itself: for its
// interpreter, as a file that only this step sees, or for the shell. Otherwise the shell gets the text as it
// stands. It returns the inputs with what it adds, and a summary for people.
func (s *stage) script(c *instructions.RunCommand, op *llb.Exec, inputs []*llb.Vertex) ([]*llb.Vertex, string, error) {
	if len(c.CmdLine) != 1 || !c.PrependShell {
		return nil, "", fmt.Errorf("parsing produced an invalid run command: %v", c.CmdLine)
	}
	text := c.CmdLine[0]
	if dfparser.MustParseHeredoc(text) == nil {
		for _, f := range c.Files {
			text += "\n" + f.Data + f.Name
		}
		op.Args = append(s.shell(), text)
		return inputs, "", nil
	}
	doc := c.Files[0]
	text = doc.Data
	if doc.Chomp {
		text = dfparser.ChompHeredocContent(text)
	}
	if strings.HasPrefix(text, "#!") {
		inputs = append(inputs, s.documents([]llb.Action{&llb.Mkfile{Path: path.Join("/", doc.Name), Mode: 0o755, Data: []byte(text), Time: s.epoch()}}))
		op.Mounts = append(op.Mounts, llb.Mount{Type: llb.MountBind, Target: pipes, From: len(inputs), Source: "/", ReadOnly: true})
		text = path.Join(pipes, doc.Name)
	}
	op.Args = append(s.shell(), text)
	return inputs, " (" + firstLine(doc.Data) + ")", nil
}

func firstLine(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if more {
		line += "..."
	}
	return line
}
