package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// serial numbers the groups of this process.
var serial atomic.Int64

// A group is the control group of a sandbox: a folder in the one hierarchy of version 2, or one in each of the
// hierarchies of version 1, or some of both.
type group struct {
	dirs map[string]string // controller -> folder
	v2   map[string]bool   // of the controllers
}

// newGroup makes a group for l with what this host lets us have, and returns the controllers it does not.
func newGroup(l Limits) (g *group, missing []string) {
	g = &group{dirs: map[string]string{}, v2: map[string]bool{}}
	h := hierarchies()
	name := fmt.Sprintf("build-%d-%d", os.Getpid(), serial.Add(1))
	for _, c := range l.controllers() {
		err := g.join(h, c, l.CgroupParent, name)
		if err == nil {
			err = g.limit(c, l)
		}
		if err != nil {
			missing = append(missing, c)
		}
	}
	return g, missing
}

func (l *Limits) controllers() (list []string) {
	for c, wanted := range map[string]bool{"memory": l.Memory > 0, "cpu": l.CPUQuota > 0, "cpuset": l.CPUSet != "", "pids": l.PIDs > 0} {
		if wanted {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return list
}

// A hierarchy is where a controller is mounted, and where in it this process is.
type hierarchy struct {
	v2         bool
	mount, own string
}

// hierarchies returns the hierarchy of each controller.
func hierarchies() map[string]hierarchy {
	own := map[string]string{}
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(b)) { // 4:memory:/path, or 0::/path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 {
			for c := range strings.SplitSeq(f[1], ",") {
				own[c] = f[2]
			}
		}
	}
	out := map[string]hierarchy{}
	b, _ = os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(fs) < 3 {
			continue
		}
		switch fs[0] {
		case "cgroup":
			for c := range strings.SplitSeq(fs[2], ",") {
				out[c] = hierarchy{false, f[4], below(own[c], f[3])}
			}
		case "cgroup2":
			controllers, _ := os.ReadFile(filepath.Join(f[4], "cgroup.controllers"))
			for _, c := range strings.Fields(string(controllers)) {
				out[c] = hierarchy{true, f[4], below(own[""], f[3])}
			}
		}
	}
	return out
}

// below returns path relative to the root of a mount.
func below(path, root string) string {
	if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return "."
}

// join makes the folder of the group that controller c works on.
func (g *group) join(all map[string]hierarchy, c, parent, name string) error {
	h, ok := all[c]
	if !ok {
		return errors.ErrUnsupported
	}
	place := filepath.Join(h.mount, h.own)
	if parent != "" {
		place = filepath.Join(h.mount, filepath.Join("/", parent))
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
	}
	if h.v2 {
		g.v2[c] = true
		var err error
		if place, err = delegated(h.mount, place, c); err != nil {
			return err
		}
	}
	dir := filepath.Join(place, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	g.dirs[c] = dir
	return nil
}

// delegated returns the nearest group, from dir up to the mount, that gives controller c to its children and in which we
// may make one.
func delegated(mount, dir, c string) (string, error) {
	for {
		ok, err := gives(dir, c)
		if err != nil {
			return "", err
		}
		if ok && unix.Access(dir, unix.W_OK) == nil && unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) == nil {
			return dir, nil
		}
		if dir == mount {
			return "", errors.ErrUnsupported
		}
		dir = filepath.Dir(dir)
	}
}

// gives reports whether the group dir gives controller c to its children, which it is asked to. One with processes in it, unless it is the
// root, gives none: the kernel refuses the memory, but it would give cpu, cpuset and pids to children for threads, which no process enters.
func gives(dir, c string) (bool, error) {
	control := filepath.Join(dir, "cgroup.subtree_control")
	given, err := os.ReadFile(control)
	if err != nil {
		return false, err
	}
	if kind, err := os.ReadFile(filepath.Join(dir, "cgroup.type")); err == nil { // the root has none
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || len(procs) > 0 || string(kind) != "domain\n" {
			return false, nil
		}
	}
	return slices.Contains(strings.Fields(string(given)), c) || os.WriteFile(control, []byte("+"+c), 0) == nil, nil
}

// limit writes what l says of controller c.
func (g *group) limit(c string, l Limits) error {
	memory, swap := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	pids, size := strconv.FormatInt(l.PIDs, 10), strconv.FormatInt(l.Memory, 10)
	swapSize := size
	if g.v2[c] {
		memory, swap, swapSize = "memory.max", "memory.swap.max", "0"
	}
	switch c {
	case "memory":
		err := g.write(c, memory, size)
		_ = g.write(c, swap, swapSize) // not every kernel accounts for swap
		return err
	case "pids":
		return g.write(c, "pids.max", pids)
	case "cpu":
		if g.v2[c] {
			return g.write(c, "cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, l.CPUPeriod))
		}
		return errors.Join(g.write(c, "cpu.cfs_period_us", strconv.FormatInt(l.CPUPeriod, 10)),
			g.write(c, "cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10)))
	case "cpuset":
		if !g.v2[c] { // which takes no process before it has memory nodes
			mems, err := os.ReadFile(filepath.Join(filepath.Dir(g.dirs[c]), "cpuset.mems"))
			if err != nil {
				return err
			}
			if err := g.write(c, "cpuset.mems", strings.TrimSpace(string(mems))); err != nil {
				return err
			}
		}
		return g.write(c, "cpuset.cpus", l.CPUSet)
	}
	return nil
}

func (g *group) write(c, file, text string) error {
	return os.WriteFile(filepath.Join(g.dirs[c], file), []byte(text), 0)
}

// folders returns the folders of the group.
func (g *group) folders() (list []string) {
	for _, dir := range g.dirs {
		if !slices.Contains(list, dir) {
			list = append(list, dir)
		}
	}
	slices.Sort(list)
	return list
}

// doors opens the files by which a process enters the group. The kernel asks what we may do, not the process that
// writes: that one has a view of the control groups (a namespace) in which this group may not be found.
func (g *group) doors() (list []*os.File, err error) {
	for _, dir := range g.folders() {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return list, err
		}
		list = append(list, f)
	}
	return list, nil
}

// remove removes the group, whose processes have ended.
func (g *group) remove() {
	for _, dir := range g.folders() {
		for range 100 {
			if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil) // a killed process is still on its way out
		}
	}
}

// memory returns the highest use of memory, and whether a process was killed for it.
func (g *group) memory() (peak int64, killed bool) {
	dir, ok := g.dirs["memory"]
	if !ok {
		return 0, false
	}
	use, events := "memory.max_usage_in_bytes", "memory.oom_control"
	if g.v2["memory"] {
		use, events = "memory.peak", "memory.events"
	}
	b, _ := os.ReadFile(filepath.Join(dir, use))
	peak, _ = strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	b, _ = os.ReadFile(filepath.Join(dir, events))
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			killed = strings.TrimSpace(n) != "0"
		}
	}
	return peak, killed
}
