package llb

import (
	"github.com/seed0570efb0/build/internal/digest"
)

// Image is a source: the root file system of an image, as its layers. With no
// layers it is scratch, the empty root.
type Image struct {
	// Layers are the diff IDs of the image's layers, lowest first. They are the content,
	// so they alone are hashed: the same layers under two names are the same step.
	Layers []digest.Digest
	// Ref is the pinned reference the layers can be fetched from, like
	// "docker.io/library/debian:12@sha256:...". It says where, not what, and is not hashed.
	Ref string
}

func (*Image) domain() string { return "source.image/v1" }
func (*Image) arity() int     { return 0 }
func (o *Image) hash(h *digest.Hasher) {
	h.Int("layers", int64(len(o.Layers)))
	for _, l := range o.Layers {
		h.Digest("layer", l)
	}
}

// Local is a source: a folder on the machine that asked for the build, seen
// through ignore patterns. Its ID names the folder by its role; its content is
// pinned by the executor when a step selects files from it.
type Local struct {
	// Name is the role of the folder: "context", or the name of a --build-context.
	Name string
	// Exclude holds the patterns of .dockerignore, in order.
	Exclude []string
}

func (*Local) domain() string { return "source.local/v1" }
func (*Local) arity() int     { return 0 }
func (o *Local) hash(h *digest.Hasher) {
	h.String("name", o.Name)
	h.Strings("exclude", o.Exclude)
}

// Exec runs a process on its first input, the root file system; what the
// process changes there is the new layer.
type Exec struct {
	// Args is the command with its arguments; Args[0] is looked up in the PATH of Env.
	Args []string
	// Env is the whole environment, as "KEY=value", in order.
	Env []string
	// Cwd is the working directory, absolute within the root.
	Cwd string
	// User is the text of USER: "", "name", "uid", with an optional ":group".
	User string
	// Network is the network the process sees.
	Network Network
	// Hostname is the host name the process sees; "" means the default.
	Hostname string
	// Hosts are further lines of /etc/hosts.
	Hosts []Host
	// Security is what the process may do beyond its sandbox.
	Security Security
	// Proxy holds the proxy variables of the predefined arguments, as "KEY=value". The process
	// sees them; they are not hashed, since how a host is reached must not change what is built.
	Proxy []string
	// Mounts are made over the root; of two on one path the later one shows.
	Mounts []Mount
	// Devices are those of the host that the process may use. What is behind their names is not hashed.
	Devices []Device
}

// A Device names devices of the host, as the Container Device Interface does: "vendor/class=name". How a host describes them is
// its own business; the step counts as the same one wherever it runs.
type Device struct {
	Name string
	// Required makes it an error that there is none.
	Required bool
}

// A Host is a line of /etc/hosts. IP may be HostGateway.
type Host struct{ Name, IP string }

// HostGateway is the address by which a process reaches the host it runs on: which one that is differs
// from host to host, and so is found out where the process is run.
const HostGateway = "host-gateway"

// A Security is what a process may do beyond its sandbox; the zero value is nothing.
type Security struct {
	// Insecure is the mode of that name of BuildKit: all capabilities and system calls, and nothing of
	// /proc and /sys is kept from the process.
	Insecure bool
	// Unconfined allows all system calls.
	Unconfined bool
	// NewPrivileges lets set-user-ID programs and file capabilities have their effect.
	NewPrivileges bool
}

func (s Security) hash(h *digest.Hasher) {
	h.Bool("insecure", s.Insecure)
	h.Bool("unconfined", s.Unconfined)
	h.Bool("new-privileges", s.NewPrivileges)
}

// A Network says which network a process sees.
type Network string

// The networks of Exec.
const (
	NetworkDefault Network = "default"
	NetworkNone    Network = "none" // a loopback interface only
	NetworkHost    Network = "host"
)

func (*Exec) domain() string { return "exec/v1" }
func (o *Exec) arity() int {
	n := 1
	for _, m := range o.Mounts {
		n = max(n, m.From+1)
	}
	return n
}
func (o *Exec) hash(h *digest.Hasher) {
	h.Strings("args", o.Args)
	h.Strings("env", o.Env)
	h.String("cwd", o.Cwd)
	h.String("user", o.User)
	h.String("network", string(o.Network))
	h.String("hostname", o.Hostname)
	h.Int("hosts", int64(len(o.Hosts)))
	for _, x := range o.Hosts {
		h.String(x.Name, x.IP)
	}
	o.Security.hash(h)
	h.Int("mounts", int64(len(o.Mounts)))
	for i := range o.Mounts {
		o.Mounts[i].hash(h)
	}
	for _, d := range o.Devices {
		h.String("device", d.Name)
		h.Bool("device required", d.Required)
	}
}

// File changes its first input, the root file system, without running
// anything. The actions apply in order and make one layer together.
type File struct {
	Actions []Action
}

func (*File) domain() string { return "file/v1" }
func (o *File) arity() int {
	n := 1
	for _, a := range o.Actions {
		if c, ok := a.(*Copy); ok {
			n = max(n, c.From+1)
		}
	}
	return n
}
func (o *File) hash(h *digest.Hasher) {
	h.Int("actions", int64(len(o.Actions)))
	for _, a := range o.Actions {
		a.hash(h)
	}
}

// An Action is one change that File makes: *Copy, *Mkdir or *Mkfile. The set is closed.
type Action interface {
	hash(h *digest.Hasher)
}

// Copy copies files from another input.
type Copy struct {
	// From is the index of the input that is read; never 0.
	From int
	// Sources are paths within that input, in order.
	Sources []Source
	// Exclude holds patterns of what is left out of a source that is a folder, relative to it, as
	// those of .dockerignore.
	Exclude []string
	// Dest is the destination, absolute within the root. A trailing slash
	// means a directory.
	Dest string
	// Owner is the owner of everything copied; nil keeps the owner of the source
	// (a Local's files belong to 0:0).
	Owner *Owner
	// Mode is what becomes of the permission bits of everything copied: an octal number that
	// replaces them, of implied parents too, or changes like "u=rwX,go-w" as chmod(1) takes them.
	// "" keeps them.
	Mode string
	// Unpack extracts sources that are tar archives (compressed or not) instead of copying
	// them. The content decides, not the name.
	Unpack bool
}

// A Source is one source path of a Copy.
type Source struct {
	Path     string // cleaned, absolute within the input
	Wildcard bool   // Path is a pattern as path/filepath.Match has them; matching nothing is fine
	// Include, unless it is "", is a pattern like one of .dockerignore, relative to Path: only what
	// it matches is copied, with the folders on the way to it.
	Include string
	// Required makes it an error that Include matches nothing.
	Required bool
}

// An Owner names a user and group by the text of --chown or USER: "user[:group]", names or numbers, resolved
// against /etc/passwd and /etc/group of the file system that is changed. Without a group, a
// numeric user's group has the same number and a named user's is its primary one.
type Owner struct{ Text string }

func (o *Owner) hash(h *digest.Hasher) {
	if o == nil {
		h.String("owner", "")
		return
	}
	h.String("owner", "="+o.Text)
}

func (a *Copy) hash(h *digest.Hasher) {
	h.String("action", "copy")
	h.Int("from", int64(a.From))
	h.Int("sources", int64(len(a.Sources)))
	for _, s := range a.Sources {
		h.String("path", s.Path)
		h.Bool("wildcard", s.Wildcard)
		h.String("include", s.Include)
		h.Bool("required", s.Required)
	}
	h.Strings("exclude", a.Exclude)
	h.String("dest", a.Dest)
	a.Owner.hash(h)
	h.String("mode", a.Mode)
	h.Bool("unpack", a.Unpack)
}

// Mkdir makes a directory and its missing parents. A directory that is
// already there is left as it is.
type Mkdir struct {
	Path  string // absolute within the root
	Mode  uint32 // permission bits
	Owner *Owner // nil: 0:0
	// Time is when the directories were made, in seconds since 1970; nil is when they are.
	Time *int64
}

func (a *Mkdir) hash(h *digest.Hasher) {
	h.String("action", "mkdir")
	h.String("path", a.Path)
	h.Int("mode", int64(a.Mode))
	a.Owner.hash(h)
	if a.Time != nil {
		h.Int("time", *a.Time)
	}
}

// Mkfile makes a file that belongs to 0:0, in place of what is there. Its folder must exist.
type Mkfile struct {
	Path string // absolute within the root
	Mode uint32 // permission bits
	Data []byte
	// Time is when the file was made, in seconds since 1970; nil is when it is.
	Time *int64
}

func (a *Mkfile) hash(h *digest.Hasher) {
	h.String("action", "mkfile")
	h.String("path", a.Path)
	h.Int("mode", int64(a.Mode))
	h.Digest("data", digest.Of(a.Data))
	if a.Time != nil {
		h.Int("time", *a.Time)
	}
}

// Merge puts the layers of its second input, as they are, on top of its first: what they hold
// replaces what is there, and directories are united.
type Merge struct{}

func (*Merge) domain() string      { return "merge/v1" }
func (*Merge) arity() int          { return 2 }
func (*Merge) hash(*digest.Hasher) {}
