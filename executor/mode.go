package executor

import (
	"io/fs"
	"strconv"

	dmode "github.com/tonistiigi/dchapes-mode"
)

// A modeChange is what llb.Copy.Mode says. The zero modeChange keeps all modes.
type modeChange struct {
	bits    *uint32    // replaces them
	changes *dmode.Set // is applied to them
}

func parseMode(text string) (m modeChange, err error) {
	if text == "" {
		return m, nil
	}
	if n, err := strconv.ParseUint(text, 8, 12); err == nil {
		bits := uint32(n)
		return modeChange{bits: &bits}, nil
	}
	set, err := dmode.Parse(text)
	return modeChange{changes: &set}, err
}

// of returns the mode of something that had mode before.
func (m modeChange) of(mode uint32, dir bool) uint32 {
	switch {
	case m.bits != nil:
		return *m.bits
	case m.changes != nil:
		return bitsOf(m.changes.Apply(fileMode(mode, dir)))
	}
	return mode
}

// The bits that package fs keeps in places of its own.
var special = []struct {
	bit  uint32
	mode fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

func fileMode(bits uint32, dir bool) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for _, s := range special {
		if bits&s.bit != 0 {
			m |= s.mode
		}
	}
	if dir {
		m |= fs.ModeDir
	}
	return m
}

func bitsOf(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, s := range special {
		if m&s.mode != 0 {
			bits |= s.bit
		}
	}
	return bits
}
