package userns

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An extent is one line of a uid_map: count ids from inside on are those from outside on.
type extent struct{ inside, outside, count uint32 }

// maps is how a user namespace is mapped.
type maps struct {
	uids, gids           []extent
	newuidmap, newgidmap string // helpers that may write them; "" means that we may ourselves
	privileged           bool   // we may write any map, and setgroups stays allowed
}

// singleID maps the own ids to 0.
func singleID() maps {
	return maps{
		uids: []extent{{0, uint32(os.Geteuid()), 1}},
		gids: []extent{{0, uint32(os.Getegid()), 1}},
	}
}

// subIDs maps the own ids to 0 and the subordinate ones to 1 and up. Its errors are *HostErrors.
func subIDs() (maps, error) {
	if os.Geteuid() == 0 && capable(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP) {
		return ownIDs()
	}
	m := singleID()
	var err error
	if m.newuidmap, err = findHelper("newuidmap"); err != nil {
		return maps{}, err
	}
	if m.newgidmap, err = findHelper("newgidmap"); err != nil {
		return maps{}, err
	}
	if m.uids, err = appendRanges(m.uids, "/etc/subuid"); err != nil {
		return maps{}, err
	}
	if m.gids, err = appendRanges(m.gids, "/etc/subgid"); err != nil {
		return maps{}, err
	}
	return m, nil
}

// ownIDs maps every id that this user namespace has to itself: what root in a container needs, who may do all but mount.
func ownIDs() (maps, error) {
	m := maps{privileged: true}
	for file, list := range map[string]*[]extent{"uid_map": &m.uids, "gid_map": &m.gids} {
		b, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			return maps{}, &HostError{What: "cannot map the own ids", Cause: err, Hint: "mount /proc"}
		}
		for line := range strings.Lines(string(b)) {
			var e extent
			if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.count); err != nil {
				return maps{}, fmt.Errorf("userns: /proc/self/%s: %w", file, err)
			}
			e.outside = e.inside // as seen from here
			*list = append(*list, e)
		}
	}
	return m, nil
}

// appendRanges appends the ranges that file gives to the current user.
func appendRanges(m []extent, file string) ([]extent, error) {
	name, uid := userName(), strconv.Itoa(os.Geteuid())
	ranges, err := readRanges(file, name, uid)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &HostError{What: "cannot map subordinate ids", Cause: err}
	}
	own := m[0].outside
	m = appendExtents(m, ranges)
	if len(m) == 1 {
		return nil, &HostError{
			What:  "cannot map subordinate ids",
			Cause: fmt.Errorf("%s has no range for user %s (uid %s, gid %d)", file, name, uid, own),
			Hint:  "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name,
		}
	}
	return m, nil
}

// userName returns the name that subordinate ids are kept under. Users that are not
// in /etc/passwd (a directory service) are known by $USER; newuidmap checks it anyway.
func userName() string {
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return strconv.Itoa(os.Geteuid())
}

// readRanges returns the ranges of a file in the form of subuid(5) that belong to
// the user of that name or uid. Lines in another form are skipped, as newuidmap does.
func readRanges(file, name, uid string) ([]extent, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ranges []extent
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(field) != 3 || field[0] != name && field[0] != uid {
			continue
		}
		first, err1 := strconv.ParseUint(field[1], 10, 32)
		count, err2 := strconv.ParseUint(field[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 && first+count <= 1<<32-1 {
			ranges = append(ranges, extent{outside: uint32(first), count: uint32(count)})
		}
	}
	return ranges, lines.Err()
}

// appendExtents maps ranges to the ids after those of m. What m or an earlier range
// holds already is left out: the kernel refuses a map that names an id twice.
func appendExtents(m []extent, ranges []extent) []extent {
	taken := slices.Clone(m)
	next := uint64(1)
	for _, r := range ranges {
		for _, free := range subtract(r, taken) {
			// 4294967295 is no id, and a map has 340 lines at the most.
			free.count = uint32(min(uint64(free.count), 1<<32-1-next))
			if free.count == 0 || len(m) == 340 {
				return m
			}
			free.inside = uint32(next)
			next += uint64(free.count)
			m = append(m, free)
		}
		taken = append(taken, r)
	}
	return m
}

// subtract returns the parts of r that no extent of taken holds.
func subtract(r extent, taken []extent) []extent {
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b extent) int { return cmp.Compare(a.outside, b.outside) })
	var parts []extent
	next, end := r.outside, r.outside+r.count
	for _, t := range taken {
		if first := min(t.outside, end); first > next {
			parts = append(parts, extent{outside: next, count: first - next})
		}
		next = max(next, min(t.outside+t.count, end))
	}
	if next < end {
		parts = append(parts, extent{outside: next, count: end - next})
	}
	return parts
}

// findHelper finds newuidmap or newgidmap and checks that it has the privilege to do its work.
func findHelper(name string) (string, error) {
	what := "cannot map subordinate ids"
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &HostError{what, err, "sudo apt install uidmap"}
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", &HostError{What: what, Cause: err}
	}
	if info.Mode()&fs.ModeSetuid == 0 && !hasFileCaps(path) && os.Geteuid() != 0 {
		err := fmt.Errorf("%s is neither setuid root nor has it file capabilities", path)
		hint := "sudo chmod u+s " + path
		return "", &HostError{what, err, hint}
	}
	return path, nil
}

func hasFileCaps(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}
