package executor

import (
	"context"
	"fmt"
	"os"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
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
	for _, m := range c.spec.Mounts {
		if err := c.flat.Point(m.Target, c.kinds[m.Target] == snapshot.Dir); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	}
	return nil
}

// inChroot does with files what it can of what a sandbox does with mounts.
func (c *container) inChroot() error {
	c.spec.Chroot, c.spec.Caps = true, sandbox.ChrootCaps()
	for _, m := range c.spec.Mounts {
		if m.Type != sandbox.MountBind || c.kinds[m.Target] != snapshot.Regular {
			return fmt.Errorf("mount on %s: this host allows no mounts, and in their place only files can be copied", m.Target)
		}
		content, err := os.ReadFile(m.Source)
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
	return sandbox.FillDev(c.tmp.Join("flat", "dev"))
}

// commit makes the layer of what the process of c has changed.
func (x *Executor) commit(ctx context.Context, c *container, root digest.Digest) (digest.Digest, error) {
	if c.flat != nil {
		return x.Layers.CommitFlat(ctx, c.flat, x.Now())
	}
	return x.Layers.CommitTree(ctx, root, c.spec.Root.Upper, x.Now())
}
