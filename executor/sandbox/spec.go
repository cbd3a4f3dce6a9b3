// Package sandbox runs one process in its own namespaces over an overlay root.
//
// The parent decides and checks; the child, this same program executed again,
// only carries out a Spec. A printed Spec is the whole truth about a sandbox.
// The package knows no graph, cache or image.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"github.com/seed0570efb0/build/internal/owners"
)

// A Spec is the plan of one sandbox: plain data, all paths absolute. Nothing
// that the plan does not name is visible inside.
type Spec struct {
	Root Root `json:"root"`

	Args     []string `json:"args"` // Args[0] is looked up in PATH of Env, inside the root
	Env      []string `json:"env"`
	Cwd      string   `json:"cwd"` // made (0755, root) when missing
	UID      uint32   `json:"uid"`
	GID      uint32   `json:"gid"`
	Groups   []uint32 `json:"groups"`   // supplementary groups
	Caps     []string `json:"caps"`     // capabilities kept, as "CAP_CHOWN"; see DefaultCaps
	Hostname string   `json:"hostname"` // of the UTS namespace
	Network  Network  `json:"network"`

	// Seccomp is the profile of system calls, Docker's when empty; it allows more to those with more Caps.
	Seccomp seccomp.Profile `json:"seccomp,omitempty"`
	// NoSync answers fsync and its kin at once, for a process whose Upper is worth nothing
	// after a crash.
	NoSync bool `json:"noSync,omitempty"`

	// OneUID emulates users and owners, for a user namespace that has one id only: UID, GID and
	// Groups are what the process believes it is, and the owners it gives become marks.
	OneUID bool `json:"oneUID,omitempty"`
	// Links are the owners of symbolic links and pipes in Lower, which can carry no marks, by
	// their paths without leading slash.
	Links map[string]owners.Mark `json:"links,omitempty"`

	// Terminal keeps the caller's session, for a process that a person talks to. Without it
	// the process leads a session of its own: it cannot open the caller's terminal through
	// /dev/tty, and a Ctrl-C there is the caller's to handle.
	Terminal bool `json:"terminal,omitempty"`

	// Mounts are made in order, after the root, /proc, /dev and /sys.
	Mounts []Mount `json:"mounts"`
}

// A Root is an overlay that becomes the root file system.
type Root struct {
	// Lower holds read-only trees in overlay form, the topmost first. There is at least one.
	Lower []string `json:"lower"`
	// Upper receives what the process changes, Work is overlay's scratch space; both are
	// empty folders on one file system. Once used, Upper is never an upper again (volatile).
	Upper string `json:"upper"`
	Work  string `json:"work"`
	// Target is an empty folder that the root is mounted on.
	Target string `json:"target"`
}

// A Mount puts something at a place inside the root. The place is resolved
// within the root: symbolic links never lead out. It must exist or is made in
// the root, so callers who want no trace provide it in a Lower.
type Mount struct {
	Type     MountType `json:"type"`
	Source   string    `json:"source,omitempty"` // a path of the host, for MountBind
	Target   string    `json:"target"`           // absolute inside the root
	ReadOnly bool      `json:"readOnly,omitempty"`
}

// A MountType is a kind of Mount.
type MountType string

// The kinds of Mount.
const (
	MountBind MountType = "bind"
)

// A Network says which network namespace the process joins.
type Network string

// The networks.
const (
	NetworkHost Network = "host" // that of this process
	NetworkNone Network = "none" // a new one with a loopback interface only
)

// Stdio holds the standard streams of a process; nil is /dev/null. Files are
// handed over as they are, others through a pipe.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// A Status says how a process ended: by exiting, or by a signal (then Code is 128 + Signal,
// as a shell would say).
type Status struct {
	Code   int
	Signal int // 0 unless a signal ended the process
}

// check returns an error if s is not a plan that the child can carry out to the letter.
func (s *Spec) check() error {
	for _, dir := range append([]string{s.Root.Upper, s.Root.Work, s.Root.Target, s.Cwd}, s.Root.Lower...) {
		if !path.IsAbs(dir) {
			return fmt.Errorf("path %q is not absolute", dir)
		}
	}
	switch {
	case len(s.Root.Lower) == 0:
		return errors.New("the root has no lower tree")
	case len(s.Args) == 0 || s.Args[0] == "":
		return errors.New("there is no command to run")
	case s.Network != NetworkHost && s.Network != NetworkNone:
		return fmt.Errorf("network %q is not known", s.Network)
	}
	for _, text := range slices.Concat(s.Args, s.Env) {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("argument or variable %q holds a zero byte", text)
		}
	}
	for _, m := range s.Mounts {
		if err := m.check(); err != nil {
			return fmt.Errorf("mount on %q: %w", m.Target, err)
		}
	}
	_, err := capMask(s.Caps)
	return err
}

func (m *Mount) check() error {
	switch {
	case m.Type != MountBind:
		return fmt.Errorf("type %q is not known", m.Type)
	case !path.IsAbs(m.Source):
		return fmt.Errorf("source %q is not absolute", m.Source)
	case !path.IsAbs(m.Target):
		return errors.New("the place is not absolute")
	case path.Clean(m.Target) == "/":
		return errors.New("the root is taken")
	}
	return nil
}
