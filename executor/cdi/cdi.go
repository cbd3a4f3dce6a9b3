// Package cdi knows the devices of this host that are described to the Container Device Interface: files in a few folders say what
// a process needs to use a device by name. It finds devices, and says what is to be done for one. Who may use it, and how
// it is done, is for others.
package cdi

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/util/suggest"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"
)

// Folders are where BuildKit looks for descriptions, those of the last one win.
var Folders = []string{"/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"}

// What BuildKit reads in the annotations of devices.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// A Registry holds the devices that files in some folders describe. The files are read when the first device is asked for,
// and not again: all of a build sees the same devices.
type Registry struct {
	folders []string
	read    func() *cdi.Cache
}

// New returns the registry of folders, of which those of a later one win.
func New(folders []string) *Registry {
	return &Registry{folders: folders, read: sync.OnceValue(func() *cdi.Cache {
		c, _ := cdi.NewCache(cdi.WithSpecDirs(folders...), cdi.WithAutoRefresh(false)) // there is no error
		return c
	})}
}

// Qualified reports whether name is the whole name of a device: VENDOR/CLASS=NAME.
func Qualified(name string) bool { return parser.IsQualifiedName(name) }

// Find returns the whole names of the devices that name asks for, as BuildKit understands it: VENDOR/CLASS=NAME is one, VENDOR/CLASS the
// first of its kind, VENDOR/CLASS=* all of it. Any other name is that of a class by annotation. There may be none.
func (r *Registry) Find(name string) []string {
	all := r.read().ListDevices()
	kind, device, _ := strings.Cut(name, "=")
	if vendor, _ := parser.ParseQualifier(kind); vendor != "" {
		found := slices.DeleteFunc(slices.Clone(all), func(d string) bool {
			return d != name && (device != "" && device != "*" || !strings.HasPrefix(d, kind+"="))
		})
		if device == "" && len(found) > 1 {
			found = found[:1]
		}
		if len(found) > 0 {
			return found
		}
	}
	return slices.DeleteFunc(all, func(d string) bool { class, ok := r.annotations(d)[classAnnotation]; return !ok || class != name })
}

// AutoAllowed reports whether the description of a device says that every build may use it. The name is whole.
func (r *Registry) AutoAllowed(name string) bool {
	ok, err := strconv.ParseBool(r.annotations(name)[autoAllowAnnotation])
	return ok && err == nil
}

// annotations returns those of a device, which win over those of its file.
func (r *Registry) annotations(name string) map[string]string {
	d := r.read().GetDevice(name)
	out := map[string]string{}
	maps.Copy(out, d.GetSpec().Annotations)
	maps.Copy(out, d.Annotations)
	return out
}

// A NotFoundError is a name that no device has.
type NotFoundError struct {
	err  error
	Hint string // where devices come from, or what is wrong with a file there
}

func (e *NotFoundError) Error() string { return e.err.Error() }
func (e *NotFoundError) Unwrap() error { return e.err }

// Missing returns the error of a name that Find knows nothing for.
func (r *Registry) Missing(name string) *NotFoundError {
	e := &NotFoundError{
		err:  suggest.WrapError(fmt.Errorf("required device %q is not registered", name), name, r.read().ListDevices(), true),
		Hint: "devices are described by files of the Container Device Interface (CDI) in " + strings.Join(r.folders, ", "),
	}
	wrong := r.read().GetErrors()
	if files := slices.Sorted(maps.Keys(wrong)); len(files) > 0 {
		e.Hint = fmt.Sprintf("a file that describes devices is wrong: %v", wrong[files[0]][0])
	}
	return e
}

// Edits are what a process needs to use devices.
type Edits struct {
	Env    []string // as "KEY=value"
	Nodes  []Node
	Mounts []Mount
	Groups []uint32 // supplementary groups
}

// A Node is a device file of the host that appears at a path.
type Node struct{ Source, Target string }

// A Mount is a file or folder of the host that appears at a path.
type Mount struct {
	Source, Target           string
	ReadOnly, NoExec, NoSUID bool
}

// Edits returns what is to be done for the devices of these whole names, in their order: what their files say for all of their devices
// comes before what is said of one. What a sandbox cannot do is an error.
func (r *Registry) Edits(names []string) (*Edits, error) {
	out := &Edits{}
	seen := map[*cdi.Spec]bool{}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		d := r.read().GetDevice(name)
		if d == nil {
			return nil, r.Missing(name)
		}
		parts := []*specs.ContainerEdits{&d.ContainerEdits}
		if s := d.GetSpec(); !seen[s] {
			seen[s] = true
			parts = slices.Insert(parts, 0, &s.ContainerEdits)
		}
		for _, part := range parts {
			if err := out.add(part); err != nil {
				return nil, fmt.Errorf("device %s: %s: %w", name, d.GetSpec().GetPath(), err)
			}
		}
	}
	return out, nil
}

func (e *Edits) add(c *specs.ContainerEdits) error {
	switch {
	case len(c.Hooks) > 0:
		h := c.Hooks[0]
		return fmt.Errorf("the %s hook %s is not run: programs of the host have no part in a step", h.HookName, h.Path)
	case len(c.NetDevices) > 0:
		return fmt.Errorf("the network device %s cannot be given away", c.NetDevices[0].HostInterfaceName)
	case c.IntelRdt != nil:
		return errors.New("Intel RDT (intelRdt) is not supported")
	}
	e.Env = append(e.Env, c.Env...)
	for _, n := range c.DeviceNodes {
		node, err := nodeOf(n)
		if err != nil {
			return err
		}
		e.Nodes = append(e.Nodes, node)
	}
	for _, m := range c.Mounts {
		mount, err := mountOf(m)
		if err != nil {
			return err
		}
		e.Mounts = append(e.Mounts, mount)
	}
	for _, gid := range c.AdditionalGIDs {
		if gid != 0 {
			e.Groups = append(e.Groups, gid)
		}
	}
	return nil
}

// nodeOf returns n as the file of the host that it is about. A description may give a file less rights than the host's has,
// which is for the devices of a control group to enforce; where there is none, it would be a false promise.
func nodeOf(n *specs.DeviceNode) (Node, error) {
	node := Node{Source: n.HostPath, Target: n.Path}
	if node.Source == "" {
		node.Source = n.Path
	}
	if p := n.Permissions; p != "" && !(strings.Contains(p, "r") && strings.Contains(p, "w")) {
		return node, fmt.Errorf("permissions %q of %s cannot be enforced: who sees a device may read and write it", p, n.Path)
	}
	return node, checkPaths(node.Source, node.Target)
}

// neutral are the options of mounts that say what is so in any case.
var neutral = []string{"bind", "rbind", "rw", "nodev", "exec", "suid", "private", "rprivate", "slave", "rslave", "nofail"}

func mountOf(m *specs.Mount) (Mount, error) {
	mount := Mount{Source: m.HostPath, Target: m.ContainerPath}
	if m.Type != "" && m.Type != "bind" && m.Type != "none" {
		return mount, fmt.Errorf("the mount of type %s on %s is not supported: bind is", m.Type, m.ContainerPath)
	}
	for _, o := range m.Options {
		switch {
		case o == "ro":
			mount.ReadOnly = true
		case o == "noexec":
			mount.NoExec = true
		case o == "nosuid":
			mount.NoSUID = true
		case !slices.Contains(neutral, o):
			return mount, fmt.Errorf("the option %s of the mount on %s is not supported", o, m.ContainerPath)
		}
	}
	return mount, checkPaths(mount.Source, mount.Target)
}

func checkPaths(source, target string) error {
	for _, p := range []string{source, target} {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("path %q is not absolute", p)
		}
	}
	if filepath.Clean(target) == "/" {
		return errors.New("nothing can take the place of /")
	}
	return nil
}
