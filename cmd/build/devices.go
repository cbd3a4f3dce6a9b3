package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/util/entitlements"
	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/executor/cdi"
	"github.com/seed0570efb0/build/llb"
)

// deviceOptions say which descriptions of devices there are.
type deviceOptions struct{ folders []string }

func (o *deviceOptions) flags(f *pflag.FlagSet) {
	repeatedVar(f, &o.folders, "cdi-spec-dir", "", "`FOLDER` with descriptions of devices (CDI); of several the later ones win (default "+strings.Join(cdi.Folders, ", ")+")")
}

// registry returns the devices that are described. Nothing is read before one is asked for.
func (o *deviceOptions) registry() *cdi.Registry {
	if len(o.folders) == 0 {
		return cdi.New(cdi.Folders)
	}
	return cdi.New(o.folders)
}

// A deviceGrant is what --allow says about devices.
type deviceGrant struct {
	all     bool
	names   []string
	aliases map[string]string // what the Dockerfile calls a device, and its name
}

// add grants what one --allow does.
func (g *deviceGrant) add(c *entitlements.DevicesConfig) {
	g.all = g.all || c.All
	for name, device := range c.Devices {
		if device == "" {
			g.names = append(g.names, name)
			continue
		}
		if g.aliases == nil {
			g.aliases = map[string]string{}
		}
		g.aliases[name] = device
	}
}

// ask returns the devices that a step gets which asks for some, or why it gets none.
func (g *deviceGrant) ask(r *cdi.Registry, d llb.Device) (llb.Device, error) {
	device, aliased := g.aliases[d.Name]
	if aliased {
		d.Name = device
	}
	found := r.Find(d.Name)
	if len(found) == 0 && d.Required {
		return d, r.Missing(d.Name)
	}
	if g.all || aliased {
		return d, nil
	}
	var granted []string
	for _, name := range g.names {
		some := r.Find(name)
		if len(some) == 0 {
			return d, fmt.Errorf("--allow device=%s: %w", name, r.Missing(name))
		}
		granted = append(granted, some...)
	}
	for _, name := range found {
		if !slices.Contains(granted, name) && !r.AutoAllowed(name) {
			return d, usagef("build with --allow device="+name+" if the Dockerfile may use it, --allow device for all devices",
				"device %s is requested by the build but not allowed", name)
		}
	}
	return d, nil
}

// parseDevices reads the --device of build run: names of devices, or files of this host as SOURCE[:TARGET[:rwm]].
func parseDevices(r *cdi.Registry, texts []string) (*cdi.Edits, error) {
	var names []string
	var nodes []cdi.Node
	for _, text := range texts {
		if cdi.Qualified(text) {
			names = append(names, text)
			continue
		}
		some, err := parseNodes(text)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, some...)
	}
	edits := &cdi.Edits{}
	if len(names) > 0 {
		var err error
		if edits, err = r.Edits(names); err != nil {
			return nil, err
		}
	}
	edits.Nodes = append(edits.Nodes, nodes...)
	return edits, nil
}

// parseNodes reads SOURCE[:TARGET[:rwm]]. A folder stands for all devices in it.
func parseNodes(text string) (list []cdi.Node, err error) {
	const hint = "it looks like /dev/NAME, /dev/NAME:/dev/OTHER, or VENDOR/CLASS=NAME"
	parts := strings.Split(text, ":")
	source, target := parts[0], parts[0]
	if last := parts[len(parts)-1]; len(parts) > 1 && !strings.HasPrefix(last, "/") {
		if strings.Trim(last, "rwm") != "" || !strings.Contains(last, "r") || !strings.Contains(last, "w") {
			return nil, usagef("leave it out: who sees a device may read and write it", "--device %s: access %q is not supported", text, last)
		}
		parts = parts[:len(parts)-1]
	}
	if len(parts) == 2 {
		target = parts[1]
	}
	if len(parts) > 2 || !filepath.IsAbs(source) || !filepath.IsAbs(target) || filepath.Clean(target) == "/" {
		return nil, usagef(hint, "--device %s: it has no form that is known", text)
	}
	fi, err := os.Stat(source)
	if err != nil {
		return nil, usagef("", "--device %s: %w", text, fileError(err))
	}
	if !fi.IsDir() {
		return []cdi.Node{{Source: source, Target: target}}, nil
	}
	list, err = devicesIn(filepath.Clean(source), target)
	switch {
	case err != nil:
		return nil, usagef("", "--device %s: %w", text, fileError(err))
	case len(list) == 0:
		return nil, usagef(hint, "--device %s: there is no device in it", text)
	}
	return list, nil
}

// ownFolders are those in /dev that every sandbox has for itself. The host's hold its terminals, and files of others.
var ownFolders = []string{"pts", "shm", "mqueue"}

// devicesIn returns the devices in a folder, which may be a link to one, as they are in the folder target.
func devicesIn(source, target string) (list []cdi.Node, err error) {
	err = filepath.WalkDir(source+"/", func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() && slices.Contains(ownFolders, d.Name()) {
			return fs.SkipDir
		}
		if err == nil && d.Type()&os.ModeDevice != 0 {
			list = append(list, cdi.Node{Source: p, Target: filepath.Join(target, strings.TrimPrefix(p, source))})
		}
		return err
	})
	return list, err
}
