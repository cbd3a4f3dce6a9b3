package lower

import "github.com/moby/buildkit/frontend/dockerfile/instructions"

// applyAdd copies from the main context and, unless told otherwise, unpacks
// what is an archive.
func (s *stage) applyAdd(c *instructions.AddCommand) error {
	expanded := *c
	t := transfer{paths: &expanded.SourcesAndDest, chown: &expanded.Chown, chmod: &expanded.Chmod,
		exclude: &expanded.ExcludePatterns, link: c.Link}
	if err := s.expandTransfer(t); err != nil {
		return err
	}
	if err := s.file.Supports(&expanded); err != nil {
		return err
	}
	for _, path := range expanded.SourcePaths {
		s.lintIgnored("Add", path)
	}
	unpack := c.Unpack == nil || *c.Unpack
	return s.transfer("ADD", t, s.mainContext(), unpack)
}
