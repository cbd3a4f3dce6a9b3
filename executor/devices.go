package executor

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// edits returns what a process needs to use devices. Those that are neither there nor required are left out.
func (x *Executor) edits(devices []llb.Device) (*cdi.Edits, error) {
	var names []string
	for _, d := range devices {
		found := x.Devices.Find(d.Name)
		switch {
		case len(found) == 0 && d.Required:
			return nil, x.Devices.Missing(d.Name)
		case len(found) == 0:
			x.Warn(fmt.Sprintf("optional device %q is not registered: the step runs without it: %s", d.Name, x.Devices.Missing(d.Name).Hint))
		}
		names = append(names, found...)
	}
	if len(names) == 0 {
		return nil, nil
	}
	return x.Devices.Edits(names)
}

// devices gives the process what it needs for its devices. They are mounts like any other, since no user namespace makes device
// files; a chroot, which has no mounts, gets copies.
func (c *container) devices() error {
	if c.Devices == nil {
		return nil
	}
	for _, kv := range c.Devices.Env {
		name, value, _ := strings.Cut(kv, "=")
		c.spec.Env = setVariable(c.spec.Env, name, value)
	}
	c.spec.Groups = append(c.spec.Groups, c.Devices.Groups...)
	for _, n := range c.Devices.Nodes {
		fi, err := os.Stat(n.Source)
		if err != nil {
			return fmt.Errorf("device: %w", err)
		}
		if fi.Mode()&(os.ModeDevice|os.ModeNamedPipe) == 0 {
			return fmt.Errorf("device: %s is no device file", n.Source)
		}
		if c.x.Root == sandbox.RootChroot { // see inChroot
			if fi.Mode()&os.ModeNamedPipe != 0 {
				return fmt.Errorf("device: %s is a pipe: this host allows no mounts, and nobody is at the other end of a copy", n.Source)
			}
			continue
		}
		if err := c.mount(sandbox.Mount{Type: sandbox.MountBind, Source: n.Source, Target: n.Target}, snapshot.Regular); err != nil {
			return err
		}
	}
	for _, m := range c.Devices.Mounts {
		fi, err := os.Stat(m.Source)
		if err != nil {
			return fmt.Errorf("device: %w", err)
		}
		kind := snapshot.Regular
		if fi.IsDir() {
			kind = snapshot.Dir
		}
		if err := c.mount(sandbox.Mount{
			Type: sandbox.MountBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, NoExec: m.NoExec, NoSUID: m.NoSUID,
		}, kind); err != nil {
			return err
		}
	}
	return nil
}

// copiedDevices returns the devices of a chroot, by their names below /dev: elsewhere they would be part of the layer.
func (c *container) copiedDevices() (map[string]string, error) {
	out := map[string]string{}
	if c.Devices == nil {
		return out, nil
	}
	for _, n := range c.Devices.Nodes {
		name, ok := strings.CutPrefix(path.Clean(n.Target), "/dev/")
		if !ok {
			return nil, fmt.Errorf("device on %s: this host allows no mounts, and without them devices are in /dev only", n.Target)
		}
		out[name] = n.Source
	}
	return out, nil
}
