package executor

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A RunSpec says how to run an image.
type RunSpec struct {
	Args, Env []string
	Cwd, User string
	Network   llb.Network // "" is the default one
	Hostname  string      // "" is one made of the image's digest
	Hosts     []llb.Host
	Security  llb.Security
	CapAdd    []string // see sandbox.ChangeCaps
	CapDrop   []string
	Volumes   []sandbox.Mount // what is shown of the host, and folders in memory
	Devices   *cdi.Edits      // what devices of the host take, when there are any
	ReadOnly  bool            // the root cannot be changed
	Init      bool            // see sandbox.Spec

	Stdin  io.Reader // nil is /dev/null
	Stdout io.Writer
	Stderr io.Writer
	// Terminal gives the process a terminal of that size, whose input is Stdin and whose output Stdout.
	Terminal *sandbox.Window
	// Started, when not nil, gets the process once it runs.
	Started func(*sandbox.Process)
}

// Run runs a process on the chain root and returns how it ended. What it changes is thrown away. An end of ctx ends
// the preparations; once the process runs, signals are for it to take, and it decides when this ends.
func (x *Executor) Run(ctx context.Context, root digest.Digest, r RunSpec) (sandbox.Status, error) {
	if r.Hostname == "" {
		r.Hostname = hostnameOf(root)
	}
	c, err := x.prepare(ctx, root, process{
		Args: r.Args, Env: withDefault(r.Env, "HOSTNAME", r.Hostname), Cwd: r.Cwd, User: r.User, Network: r.Network, Hostname: r.Hostname, Hosts: r.Hosts,
		Security: r.Security, CapAdd: r.CapAdd, CapDrop: r.CapDrop, Volumes: r.Volumes, Devices: r.Devices,
	})
	if err != nil {
		return sandbox.Status{}, err
	}
	defer c.remove()
	c.spec.Terminal, c.spec.ReadOnly, c.spec.Init = r.Terminal, r.ReadOnly, r.Init
	p, err := x.start(context.WithoutCancel(ctx), c, sandbox.Stdio{In: r.Stdin, Out: r.Stdout, Err: r.Stderr})
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

// volumes adds the volumes of the process.
func (c *container) volumes() error {
	for _, m := range c.Volumes {
		kind := snapshot.Dir
		if m.Type == sandbox.MountBind {
			fi, err := os.Stat(m.Source)
			if err != nil {
				return fmt.Errorf("volume: %w", err)
			}
			if !fi.IsDir() {
				kind = snapshot.Regular
			}
		}
		if err := c.mount(m, kind); err != nil {
			return err
		}
	}
	return nil
}
