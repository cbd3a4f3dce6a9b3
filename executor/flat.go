package executor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// flatten makes the root of c a copy of all files of a chain, with the places of its mounts.
func (x *Executor) flatten(ctx context.Context, c *container, id digest.Digest) error {
	dir := c.tmp.Join("flat")
	f, err := x.Layers.Flatten(ctx, id, dir)
	if err != nil {
		return err
	}
	c.flat = f
	c.spec.Root = sandbox.Root{Flat: dir, Target: c.tmp.Join("root")}
	if x.Root == sandbox.RootChroot {
		err = c.inChroot()
	} else {
		err = c.mountPoints()
	}
	if err != nil {
		return err
	}
	return f.Mark()
}

// mountPoints makes the places that mounts will cover, before what is there counts as the step's.
func (c *container) mountPoints() error {
	for _, e := range c.places.list() {
		if err := c.flat.Point(e.Path, e.IsDir()); err != nil {
			return fmt.Errorf("mount on /%s: %w", e.Path, err)
		}
	}
	return nil
}

// copied is bind where there is no overlay: what is shown is a copy, which is thrown away as well.
func (c *container) copied(ctx context.Context, m *llb.Mount) error {
	t, err := c.x.tree(ctx, c.Vertex, m.From, c.Inputs)
	if err != nil {
		return err
	}
	found, err := sourceOf(t, m)
	if err != nil {
		return err
	}
	c.folders++
	dir := fmt.Sprintf("shown-%d", c.folders)
	if err := c.mkdir(dir); err != nil {
		return err
	}
	if err := snapshot.WriteTree(ctx, t, found.Path, c.tmp.Join(dir), "shown"); err != nil {
		return err
	}
	return c.mount(sandbox.Mount{
		Type: sandbox.MountBind, Source: c.tmp.Join(dir), Path: "shown", Target: m.Target, ReadOnly: m.ReadOnly,
	}, found.Type)
}

// inChroot does with files what it can of what a sandbox does with mounts.
func (c *container) inChroot() error {
	c.spec.Chroot = true
	for _, v := range c.Volumes {
		return fmt.Errorf("mount on %s: this host allows no mounts", v.Target)
	}
	for _, m := range c.spec.Mounts {
		if m.Type != sandbox.MountBind || c.kinds[m.Target] != snapshot.Regular {
			return fmt.Errorf("mount on %s: this host allows no mounts, and in their place only files can be copied", m.Target)
		}
		content, err := os.ReadFile(filepath.Join(m.Source, m.Path))
		if err == nil {
			err = c.flat.Place(m.Target, string(content))
		}
		if err != nil {
			return fmt.Errorf("this host allows no mounts, and in their place only files can be copied: mount on %s: %w", m.Target, err)
		}
	}
	c.spec.Mounts = nil
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := c.flat.PlaceDir(dir); err != nil {
			return err
		}
	}
	devices, err := c.copiedDevices()
	if err != nil {
		return err
	}
	return sandbox.FillDev(c.tmp.Join("flat", "dev"), devices)
}

// commit makes the layer of what the process of c has changed; links tells owners that no file can.
func (x *Executor) commit(ctx context.Context, c *container, root digest.Digest, links snapshot.LinkOwner) (digest.Digest, error) {
	m := x.making(c.Vertex, x.Now())
	m.Links = links
	if c.flat != nil {
		return x.Layers.CommitFlat(ctx, c.flat, m)
	}
	return x.Layers.CommitTree(ctx, root, c.spec.Root.Upper, m)
}
