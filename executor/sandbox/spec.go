// Package sandbox runs one process in its own namespaces over an overlay root.
//
// This process decides, checks and puts together; the child, which runs no Go, only carries out
// a list of system calls. A printed Spec is the whole truth about a sandbox.
// The package knows no graph, cache or image.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

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

	// NewPrivileges lets set-user-ID programs and file capabilities have their effect, within Caps. It takes a
	// kernel that knows users: neither OneUID nor Chroot.
	NewPrivileges bool `json:"newPrivileges,omitempty"`
	// Privileged gives Caps to a user other than root as well, and keeps nothing of /proc and /sys back.
	Privileged bool `json:"privileged,omitempty"`
	// Seccomp is the profile of system calls, Docker's when empty; it allows more to those with more Caps.
	Seccomp seccomp.Profile `json:"seccomp,omitempty"`
	// NoSync answers fsync and its kin at once, for a process whose Upper is worth nothing
	// after a crash.
	NoSync bool `json:"noSync,omitempty"`

	// OneUID emulates users and owners, for a user namespace that has one id only: UID, GID and
	// Groups are what the process believes it is, and the owners it gives become marks.
	OneUID bool `json:"oneUID,omitempty"`
	// Links are the owners of symbolic links and pipes in the root, which can carry no marks, by
	// their paths without leading slash.
	Links map[string]owners.Mark `json:"links,omitempty"`

	// Terminal gives the process a terminal of its own, of that size, which carries Stdio.In and Stdio.Out. With it or
	// without, the process leads a session of its own: it cannot open the caller's terminal through
	// /dev/tty, and a Ctrl-C there is the caller's to handle.
	Terminal *Window `json:"terminal,omitempty"`
	// Init makes pid 1 a process that starts the command, passes signals on to it and reaps its orphans. In a chroot
	// there is one that does so in any case.
	Init bool `json:"init,omitempty"`

	// Limits bound what the process and its children use. Those that cannot be enforced are an error; see Enforce.
	Limits Limits `json:"limits"`
	// ShmSize is the size of /dev/shm in bytes; 0 is 64 MiB.
	ShmSize int64 `json:"shmSize,omitempty"`

	// Chroot makes no namespace and no mount: the process only gets Root.Flat for its root, and all of
	// what it starts is killed at its end. Network must be NetworkHost, and there are no Mounts.
	Chroot bool `json:"chroot,omitempty"`

	// Mounts are made in order, after the root, /proc, /dev and /sys.
	Mounts []Mount `json:"mounts"`
	// ReadOnly makes the root read-only, once the places of Mounts are made. Mounts have a ReadOnly of their own.
	ReadOnly bool `json:"readOnly,omitempty"`
}

// A Root becomes the root file system: an overlay, or one folder as it is.
type Root struct {
	// Flat, when not "", is the root itself, which the process changes; then there is no overlay.
	Flat string `json:"flat,omitempty"`
	// Lower holds read-only trees in overlay form, the topmost first. There is at least one.
	Lower []string `json:"lower"`
	// Upper receives what the process changes, Work is overlay's scratch space; both are
	// empty folders on one file system. Once used, Upper is never an upper again (volatile).
	Upper string `json:"upper"`
	Work  string `json:"work"`
	// Target is an empty folder that the root is mounted on. Chroot has no use for it.
	Target string `json:"target"`
}

// A Mount puts something at a place inside the root. The place is resolved
// within the root: symbolic links never lead out. It must exist or is made in
// the root, so callers who want no trace provide it in a Lower.
type Mount struct {
	Type     MountType `json:"type"`
	Target   string    `json:"target"` // absolute inside the root
	ReadOnly bool      `json:"readOnly,omitempty"`

	Source  string `json:"source,omitempty"`  // a path of the host, for MountBind
	Overlay *Root  `json:"overlay,omitempty"` // for MountOverlay; its own Target is not used
	// Path is what is shown below a MountBind or MountOverlay, "" all of it. Links that lead
	// out of what is mounted are an error.
	Path string `json:"path,omitempty"`

	Size   int64 `json:"size,omitempty"`   // the most bytes in a MountTmpfs; 0 leaves it to the kernel
	NoExec bool  `json:"noExec,omitempty"` // no program is started from a MountTmpfs or MountBind
	NoSUID bool  `json:"noSUID,omitempty"` // set-user-ID has no effect in a MountBind, as it has none in memory

	// Mode is that of a MountFile, or of a MountTmpfs, where 0 is 1777.
	Mode uint32 `json:"mode,omitempty"`
	// A MountFile is made of these.
	Content Secret `json:"content,omitempty"`
	UID     int    `json:"uid,omitempty"`
	GID     int    `json:"gid,omitempty"`
}

// A MountType is a kind of Mount.
type MountType string

// The kinds of Mount.
const (
	MountBind    MountType = "bind"    // a file or folder of the host
	MountOverlay MountType = "overlay" // part of an overlay of its own
	MountTmpfs   MountType = "tmpfs"   // a folder in memory
	MountFile    MountType = "file"    // a file in memory that is nowhere on a disk
)

// A Secret is content that must not be printed.
type Secret []byte

// Format writes asterisks, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "****") }

// A Network says which network namespace the process joins.
type Network string

// The networks.
const (
	// NetworkDefault is a new one; what the process sends leaves through sockets of this process (package uplink).
	NetworkDefault Network = "default"
	NetworkNone    Network = "none" // a new one with a loopback interface only
	NetworkHost    Network = "host" // that of this process
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
	// OutOfMemory is set when a process was killed because Limits.Memory was reached.
	OutOfMemory bool
	Usage       Usage
}

// A Usage is what a sandbox has used. Without a control group it counts the processes that were waited for,
// and Memory is that of the largest one; or 0, which is not known, when that is no more than this program itself has used.
type Usage struct {
	CPU     time.Duration
	Memory  int64 // the peak, in bytes
	Read    int64 // from disks, in bytes
	Written int64
}

// check returns an error if s is not a plan that the child can carry out to the letter.
func (s *Spec) check() error {
	dirs := append([]string{s.Root.Upper, s.Root.Work, s.Root.Target, s.Cwd}, s.Root.Lower...)
	switch {
	case s.Chroot:
		dirs = []string{s.Root.Flat, s.Cwd}
	case s.Root.Flat != "":
		dirs = []string{s.Root.Flat, s.Root.Target, s.Cwd}
	}
	for _, dir := range dirs {
		if !path.IsAbs(dir) {
			return fmt.Errorf("path %q is not absolute", dir)
		}
	}
	switch {
	case s.Chroot && s.Network != NetworkHost:
		return fmt.Errorf("network %q needs a network namespace, and this sandbox is a chroot", s.Network)
	case s.Chroot && len(s.Mounts) > 0:
		return fmt.Errorf("a mount on %s cannot be made in a chroot", s.Mounts[0].Target)
	case s.Chroot && s.ReadOnly:
		return errors.New("a root cannot be read-only in a chroot")
	case s.NewPrivileges && (s.Chroot || s.OneUID):
		return errors.New("set-user-ID programs have no effect in this sandbox")
	case len(s.Root.Lower) == 0 && s.Root.Flat == "":
		return errors.New("the root has no lower tree")
	case len(s.Args) == 0 || s.Args[0] == "":
		return errors.New("there is no command to run")
	case s.Network != NetworkDefault && s.Network != NetworkNone && s.Network != NetworkHost:
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
	for _, r := range s.Limits.Rlimits {
		if _, known := rlimits[r.Name]; !known {
			return fmt.Errorf("limit %q is not known", r.Name)
		}
	}
	_, err := capMask(s.Caps)
	return err
}

func (m *Mount) check() error {
	switch {
	case !path.IsAbs(m.Target):
		return errors.New("the place is not absolute")
	case path.Clean(m.Target) == "/":
		return errors.New("the root is taken")
	case path.IsAbs(m.Path):
		return fmt.Errorf("path %q is absolute", m.Path)
	}
	switch m.Type {
	case MountBind:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("source %q is not absolute", m.Source)
		}
	case MountOverlay:
		if m.Overlay == nil || len(m.Overlay.Lower) == 0 {
			return errors.New("the overlay has no lower tree")
		}
	case MountTmpfs, MountFile:
	default:
		return fmt.Errorf("type %q is not known", m.Type)
	}
	return nil
}
