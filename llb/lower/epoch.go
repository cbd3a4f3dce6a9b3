package lower

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/seed0570efb0/build/parser"
)

const epochName = "SOURCE_DATE_EPOCH"

// readEpoch finds the time of what is made: that of the command line, or of an ARG before the first FROM. Its value may
// be the name of a context, which has a time only if it is a commit or comes from a server.
func (l *lowering) readEpoch() error {
	value, given := l.opt.BuildArgs[epochName]
	if !given {
		value, _ = l.globals.Get(epochName)
	}
	if l.opt.Epoch != nil || value == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	switch {
	case err == nil:
		t := time.Unix(seconds, 0).UTC()
		l.opt.Epoch = &t
	case value == "context", l.namedContext(value, l.opt.Platform) != nil:
		l.unsetEpoch()
	default:
		return l.epochError(value)
	}
	return nil
}

// unsetEpoch makes the argument one that nobody has given.
func (l *lowering) unsetEpoch() {
	l.opt.BuildArgs = maps.Clone(l.opt.BuildArgs)
	delete(l.opt.BuildArgs, epochName)
	l.globals.unset(epochName)
}

func (l *lowering) epochError(value string) error {
	for _, s := range l.file.Stages {
		if s.Name != "" && strings.EqualFold(s.Name, value) {
			return l.file.At(s.Location, fmt.Errorf("%s of a stage is not supported by this version", epochName))
		}
	}
	return &parser.Error{Msg: fmt.Sprintf("invalid %s: %s", epochName, value), Hint: "it is a number of seconds since 1970, or the name of a context"}
}
