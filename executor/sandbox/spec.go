// Package sandbox runs one process in its own namespaces over an overlay root.
//
// The parent decides and checks; the child, this same program executed again,
// only carries out a Spec. A printed Spec is the whole truth about a sandbox.
// The package knows no graph, cache or image.
package sandbox

import (
	"io"
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
