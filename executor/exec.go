package executor

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/llb"
)

// defaultHostname is what BuildKit's steps see.
const defaultHostname = "buildkitsandbox"

// An ExitError says how the process of a step ended. Its text is the one users know from BuildKit.
type ExitError struct {
	Args   []string
	Status sandbox.Status
}

func (e *ExitError) Error() string {
	if e.Status.Signal != 0 {
		return fmt.Sprintf("process %q did not complete successfully: killed by signal %d", strings.Join(e.Args, " "), e.Status.Signal)
	}
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", strings.Join(e.Args, " "), e.Status.Code)
}

// exec runs an Exec operation on the chain root; what the process changes is the new layer.
func (x *Executor) exec(ctx context.Context, v *llb.Vertex, op *llb.Exec, root digest.Digest) (digest.Digest, error) {
	c, err := x.prepare(ctx, root, process{
		Args: op.Args, Env: append(op.Env[:len(op.Env):len(op.Env)], op.Proxy...), Cwd: op.Cwd, User: op.User,
		Network: op.Network, Hostname: op.Hostname, Hosts: op.Hosts,
	})
	if err != nil {
		return digest.Digest{}, err
	}
	defer c.tmp.Remove()
	c.spec.NoSync = true // nobody looks at the upper directory of a step that did not end
	stdout, stderr := x.Log(v)
	p, err := sandbox.Start(ctx, c.spec, sandbox.Stdio{Out: stdout, Err: stderr})
	if err != nil {
		return digest.Digest{}, err
	}
	status, err := p.Wait()
	if err != nil {
		return digest.Digest{}, err
	}
	if status.Code != 0 {
		return digest.Digest{}, &ExitError{op.Args, status}
	}
	return x.Layers.CommitTree(root, c.spec.Root.Upper, p.LinkOwner, x.Now())
}

// A process is what prepare needs to know of what is to run.
type process struct {
	Args, Env []string
	Cwd, User string
	Network   llb.Network
	Hostname  string
	Hosts     []llb.Host
}

// A container is a sandbox that is ready to start, with the folder its files are in.
type container struct {
	spec sandbox.Spec
	tmp  *cache.TempDir
}

func (x *Executor) prepare(ctx context.Context, root digest.Digest, p process) (*container, error) {
	lower, err := x.Layers.Trees(ctx, root)
	if err != nil {
		return nil, err
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
	c := &container{tmp: tmp}
	c.spec = sandbox.Spec{
		Args: p.Args, Env: withHome(p.Env, u.Home), Cwd: p.Cwd,
		UID: uint32(u.Uid), GID: uint32(u.Gid), Groups: groups(u.Gid, u.Sgids),
		Caps: sandbox.DefaultCaps(), Hostname: p.Hostname, Network: sandbox.NetworkHost,
		Root: sandbox.Root{Lower: append(lower, tmp.Join("stub")), Upper: tmp.Join("upper"), Work: tmp.Join("work"), Target: tmp.Join("root")},
	}
	if owners.OneID() {
		c.spec.OneUID, c.spec.Links = true, view.Links()
	}
	if p.Hostname == "" {
		c.spec.Hostname = defaultHostname
	}
	if p.Network == llb.NetworkNone {
		c.spec.Network = sandbox.NetworkNone
	}
	if err := c.files(p); err != nil {
		tmp.Remove()
		return nil, err
	}
	return c, nil
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

// withHome adds HOME for a process whose environment does not say it.
func withHome(env []string, home string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], "HOME="+home)
}

// files makes the folders of the overlay, and the files that every process finds in /etc. Their
// mount points are in a tree of their own below all layers, so that none of them shows in the upper
// directory and nothing has to be cleaned out of it.
func (c *container) files(p process) error {
	for _, d := range []string{"stub", "upper", "work", "root", "stub/etc"} {
		if err := os.Mkdir(c.tmp.Join(d), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(c.tmp.Join(d), 0o755); err != nil { // the root's mode is not for the umask to say
			return err
		}
	}
	for target, content := range map[string][]byte{
		"/etc/hosts":       hostsFile(c.spec.Hostname, p.Hosts),
		"/etc/resolv.conf": resolvConf(p.Network),
	} {
		source := c.tmp.Join(path.Base(target))
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(c.tmp.Join("stub", target), nil, 0o644); err != nil {
			return err
		}
		c.spec.Mounts = append(c.spec.Mounts, sandbox.Mount{Type: sandbox.MountBind, Source: source, Target: target})
	}
	return nil
}

func hostsFile(hostname string, more []llb.Host) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n", hostname)
	b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, h := range more {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.Name)
	}
	return []byte(b.String())
}

// resolvConf returns the host's resolver configuration, which is right for a process that has the host's network.
func resolvConf(n llb.Network) []byte {
	if n == llb.NetworkNone {
		return nil
	}
	b, _ := os.ReadFile("/etc/resolv.conf")
	return b
}

// A RunSpec says how to run an image.
type RunSpec struct {
	Args, Env []string
	Cwd, User string
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	// Terminal says that the process belongs to the session of this one, and so may use its terminal.
	Terminal bool
	// Started, when not nil, gets the process once it runs.
	Started func(*sandbox.Process)
}

// Run runs a process on the chain root and returns how it ended. What it changes is thrown away.
func (x *Executor) Run(ctx context.Context, root digest.Digest, r RunSpec) (sandbox.Status, error) {
	c, err := x.prepare(ctx, root, process{Args: r.Args, Env: r.Env, Cwd: r.Cwd, User: r.User, Hostname: hostnameOf(root)})
	if err != nil {
		return sandbox.Status{}, err
	}
	defer c.tmp.Remove()
	c.spec.Terminal = r.Terminal
	p, err := sandbox.Start(ctx, c.spec, sandbox.Stdio{In: r.Stdin, Out: r.Stdout, Err: r.Stderr})
	if err != nil {
		return sandbox.Status{}, err
	}
	if r.Started != nil {
		r.Started(p)
	}
	return p.Wait()
}

// hostnameOf gives a container a name as Docker does: 12 hex digits.
func hostnameOf(root digest.Digest) string { return root.Short() }
