package parser

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

// Remote tells whether a source of COPY or ADD, or a context, is fetched from elsewhere: it
// returns "URL", "git ref", or "" for a path.
func Remote(source string) string {
	if !strings.Contains(source, ":") && !strings.HasPrefix(source, "github.com/") { // every other form has a colon
		return ""
	}
	ref, is, err := dfgitutil.ParseGitRef(source)
	switch {
	case err == nil && !ref.IndistinguishableFromLocal, err != nil && is:
		return "git ref"
	case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
		return "URL"
	}
	return ""
}
