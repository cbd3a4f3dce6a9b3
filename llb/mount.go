package llb

import "github.com/seed0570efb0/build/internal/digest"

// A Mount is something that the process of an Exec finds at a path, and that is no part of its
// layer. All of a Mount counts for the ID of its vertex; what is behind the names in it, such
// as the value of a secret or the files of a cache, does not.
type Mount struct {
	Type MountType
	// Target is where the process finds it, absolute within the root. Only a secret
	// that is no file has none.
	Target string
	// From is the input that a bind mount shows and that a new cache is filled from; 0 is none.
	From int
	// Source is the path below From, or else in the cache, that is shown; absolute there.
	Source   string
	ReadOnly bool
	// ID names a cache, a secret or an agent.
	ID      string
	Sharing Sharing // of a cache
	// Size is the most bytes that a tmpfs holds; 0 leaves it to the kernel.
	Size int64
	// Required makes a secret or an agent that nobody provides an error.
	Required bool
	// Env is the variable that takes a secret, or "".
	Env string
	// Access is who owns a secret or a socket; of a cache, who owns it when it is new, nil for 0:0 and 0755.
	Access *Access
}

// An Access is the owner and the permission bits of a file.
type Access struct {
	Mode     uint32
	UID, GID int
}

// A MountType is a kind of Mount.
type MountType string

// The kinds of Mount.
const (
	MountBind   MountType = "bind"   // files of another input; what is written is thrown away
	MountCache  MountType = "cache"  // a folder that outlives the build
	MountTmpfs  MountType = "tmpfs"  // a folder in memory
	MountSecret MountType = "secret" // a value that is kept out of everything
	MountSSH    MountType = "ssh"    // the socket of an SSH agent
)

// A Sharing says what happens when a cache is in use already, by this build or another.
type Sharing string

// The ways of sharing.
const (
	SharingShared  Sharing = "shared"  // both use it
	SharingPrivate Sharing = "private" // the later one gets another folder
	SharingLocked  Sharing = "locked"  // the later one waits
)

func (m *Mount) hash(h *digest.Hasher) {
	h.String("mount", string(m.Type))
	h.String("target", m.Target)
	h.Int("from", int64(m.From))
	h.String("source", m.Source)
	h.Bool("read-only", m.ReadOnly)
	h.String("id", m.ID)
	h.String("sharing", string(m.Sharing))
	h.Int("size", m.Size)
	h.Bool("required", m.Required)
	h.String("variable", m.Env)
	h.Bool("access", m.Access != nil)
	if m.Access != nil {
		h.Int("mode", int64(m.Access.Mode))
		h.Int("uid", int64(m.Access.UID))
		h.Int("gid", int64(m.Access.GID))
	}
}
