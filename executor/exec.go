package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// defaultHostname is what BuildKit's steps see.
const defaultHostname = "buildkitsandbox"

// An ExitError says how the process of a step ended. Its text is the one users know from BuildKit.
type ExitError struct {
	Args   []string
	Status sandbox.Status
	Memory int64 // how much there was to use, in bytes; 0 is no limit
}

func (e *ExitError) Error() string {
	if e.Status.OutOfMemory {
		return fmt.Sprintf("process %q did not complete successfully: %s", strings.Join(e.Args, " "), OutOfMemory(e.Status.Usage.Memory, e.Memory))
	}
	if e.Status.Signal != 0 {
		return fmt.Sprintf("process %q did not complete successfully: killed by signal %d", strings.Join(e.Args, " "), e.Status.Signal)
	}
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", strings.Join(e.Args, " "), e.Status.Code)
}

// OutOfMemory says that a limit was reached.
func OutOfMemory(used, limit int64) string {
	return fmt.Sprintf("out of memory: used %s of %s", units.BytesSize(float64(used)), units.BytesSize(float64(limit)))
}

// exec runs an Exec operation on its first input; what the process changes there is the new layer.
func (x *Executor) exec(ctx context.Context, v *llb.Vertex, op *llb.Exec, inputs []digest.Digest) (digest.Digest, error) {
	devices, err := x.edits(op.Devices)
	if err != nil {
		return digest.Digest{}, err
	}
	c, err := x.prepare(ctx, inputs[0], process{
		Args: op.Args, Env: append(op.Env[:len(op.Env):len(op.Env)], op.Proxy...), Cwd: op.Cwd, User: op.User,
		Network: op.Network, Hostname: op.Hostname, Hosts: op.Hosts, Security: op.Security,
		Devices: devices, Mounts: op.Mounts, Vertex: v, Inputs: inputs,
	})
	if err != nil {
		return digest.Digest{}, err
	}
	c.spec.NoSync = true // nobody looks at the upper directory of a step that did not end
	stdout, stderr := x.Log(v)
	proc, err := x.start(ctx, c, sandbox.Stdio{Out: stdout, Err: stderr})
	if err != nil {
		c.remove()
		return digest.Digest{}, err
	}
	defer x.leave(func() {
		proc.Wait() // before its files are removed
		c.remove()
	})
	x.prepareFollower(v)
	status, err := proc.Ended()
	c.release() // others may wait for a cache
	if err != nil {
		return digest.Digest{}, err
	}
	if x.Usage != nil {
		x.Usage(v, status.Usage)
	}
	if status.Code != 0 {
		return digest.Digest{}, &ExitError{op.Args, status, x.Limits.Memory}
	}
	return x.commit(ctx, c, inputs[0], proc.LinkOwner)
}

// A process is what prepare needs to know of what is to run.
type process struct {
	Args, Env []string
	Cwd, User string
	Network   llb.Network
	Hostname  string
	Hosts     []llb.Host
	Security  llb.Security
	CapAdd    []string
	CapDrop   []string
	Volumes   []sandbox.Mount // of host files and memory
	Devices   *cdi.Edits      // what the devices of the process take, when it has any

	// Mounts refer to Inputs, the results of the inputs of Vertex.
	Mounts []llb.Mount
	Vertex *llb.Vertex
	Inputs []digest.Digest
}

// A container is a sandbox that is ready to start, with the folder its files are in.
type container struct {
	process
	x       *Executor
	view    *snapshot.View // of the root
	spec    sandbox.Spec
	tmp     *cache.TempDir
	flat    *snapshot.Flat // the root, when it is no overlay
	places  places
	kinds   map[string]snapshot.Type // of what is mounted, by target
	held    []func()                 // what release calls, last first
	folders int                      // made in tmp for mounts
}

// release ends what others may wait for, and what only the process needed.
func (c *container) release() {
	for _, f := range slices.Backward(c.held) {
		f()
	}
	c.held = nil
}

func (c *container) remove() {
	c.release()
	c.tmp.Remove()
}

func (x *Executor) prepare(ctx context.Context, root digest.Digest, p process) (*container, error) {
	var lower []string
	if x.Root == sandbox.RootOverlay {
		var err error
		if lower, err = x.Layers.Trees(ctx, root); err != nil {
			return nil, err
		}
	}
	view, err := x.Layers.View(ctx, root)
	if err != nil {
		return nil, err
	}
	u, err := execUser(view, p.User)
	if err != nil {
		return nil, err
	}
	tmp, err := x.Disk.NewTempDir()
	if err != nil {
		return nil, err
	}
	c := &container{process: p, x: x, view: view, tmp: tmp, places: places{view: view}, kinds: map[string]snapshot.Type{}}
	c.spec = sandbox.Spec{
		Args: p.Args, Env: withDefault(p.Env, "HOME", u.Home), Cwd: p.Cwd,
		UID: uint32(u.Uid), GID: uint32(u.Gid), Groups: groups(u.Gid, u.Sgids),
		Caps: sandbox.DefaultCaps(), Hostname: p.Hostname, Network: x.network(p.Network),
		Root: sandbox.Root{Lower: append([]string{tmp.Join("stub")}, lower...), Upper: tmp.Join("upper"), Work: tmp.Join("work"), Target: tmp.Join("root")},
	}
	c.spec.Limits, c.spec.ShmSize = x.Limits, x.ShmSize
	if owners.OneID() {
		c.spec.OneUID, c.spec.Links = true, view.Links()
	}
	if p.Hostname == "" {
		c.spec.Hostname = defaultHostname
	}
	if err = c.secure(); err == nil {
		err = c.files(ctx)
	}
	if err == nil && x.Root != sandbox.RootOverlay {
		err = x.flatten(ctx, c, root)
	}
	if err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// secure sets what the process may do beyond its sandbox.
func (c *container) secure() (err error) {
	s, chroot := c.Security, c.x.Root == sandbox.RootChroot
	switch {
	case s.Insecure:
		c.spec.Privileged, c.spec.Caps = true, sandbox.AllCaps()
		// Where the kernel knows one user, there are no others to become.
		s.Unconfined, s.NewPrivileges = true, !c.spec.OneUID && !chroot
	case chroot:
		c.spec.Caps = sandbox.ChrootCaps()
	}
	if c.spec.Caps, err = sandbox.ChangeCaps(c.spec.Caps, c.CapAdd, c.CapDrop); err != nil {
		return err
	}
	if s.Unconfined {
		c.spec.Seccomp = seccomp.Unconfined
	}
	c.spec.NewPrivileges = s.NewPrivileges
	return nil
}

func groups(gid int, more []int) []uint32 {
	out := []uint32{uint32(gid)}
	for _, g := range more {
		if g != gid {
			out = append(out, uint32(g))
		}
	}
	return out
}

// withDefault adds a variable to an environment that has none of that name.
func withDefault(env []string, name, value string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], name+"="+value)
}

// files makes the folders of the overlay and prepares all that is mounted over it. Mount points that the root lacks are in
// a tree of their own above all layers, so that none of them shows in the upper directory and nothing has to be
// cleaned out of it.
func (c *container) files(ctx context.Context) error {
	if err := c.mkdir("stub", "upper", "work", "root"); err != nil {
		return err
	}
	for target, content := range map[string][]byte{
		"/etc/hosts":       c.hostsFile(),
		"/etc/resolv.conf": resolvConf(c.spec.Network),
	} {
		source := c.tmp.Join(path.Base(target))
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return err
		}
		if err := c.mount(sandbox.Mount{Type: sandbox.MountBind, Source: source, Target: target}, snapshot.Regular); err != nil {
			return err
		}
	}
	if err := c.devices(); err != nil {
		return err
	}
	if err := c.volumes(); err != nil {
		return err
	}
	if err := c.mounts(ctx); err != nil {
		return err
	}
	// What is below another mount comes after it.
	slices.SortStableFunc(c.spec.Mounts, func(a, b sandbox.Mount) int {
		return strings.Count(path.Clean(a.Target), "/") - strings.Count(path.Clean(b.Target), "/")
	})
	return snapshot.WriteEntries(c.tmp.Join("stub"), c.places.list())
}

// mkdir makes folders in tmp with the mode of a root, which is not for the umask to say.
func (c *container) mkdir(names ...string) error {
	for _, name := range names {
		d := c.tmp.Join(name)
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// mount adds a mount of a file or a folder.
func (c *container) mount(m sandbox.Mount, kind snapshot.Type) error {
	c.spec.Mounts = append(c.spec.Mounts, m)
	c.kinds[m.Target] = kind
	return c.places.add(m.Target, kind)
}
