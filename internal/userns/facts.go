package userns

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Facts is all of this host that decides which modes work. When two Facts are equal, so is what Probe
// says: what was found out once need not be tried again.
type Facts struct {
	Kernel string `json:"kernel"`
	Boot   string `json:"boot"` // changes with every start of the host
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups"`

	Capabilities string `json:"capabilities"` // effective, in hex
	Seccomp      string `json:"seccomp"`      // 0 none, 1 strict, 2 filter
	NoNewPrivs   string `json:"noNewPrivs"`
	AppArmor     string `json:"appArmor"` // the profile of this process
	UserMap      string `json:"userMap"`  // that this process lives under

	// Settings below /proc/sys; "" is one that this kernel does not have.
	MaxUserNamespaces string `json:"maxUserNamespaces"`
	UnprivilegedClone string `json:"unprivilegedUsernsClone"`
	AppArmorRestrict  string `json:"apparmorRestrictUnprivilegedUserns"`

	NewUIDMap string `json:"newuidmap"` // the path and what it lacks, or why there is none
	NewGIDMap string `json:"newgidmap"`
	SubUIDs   string `json:"subuids"` // the ranges of this user
	SubGIDs   string `json:"subgids"`

	Container string   `json:"container"` // what kind of container this is in, as far as it shows
	Masked    []string `json:"masked"`    // mounts over parts of /proc: then no other proc can be mounted

	ForeignMounts bool `json:"foreignMounts"` // the mounts belong to a user namespace above: this process can make none
}

// Gather looks at this host. It starts no process and changes nothing.
func Gather() Facts {
	groups, _ := os.Getgroups()
	f := Facts{
		Kernel: setting("kernel/osrelease"), Boot: setting("kernel/random/boot_id"),
		UID: os.Geteuid(), GID: os.Getegid(), Groups: groups,
		Capabilities: status("CapEff"), Seccomp: status("Seccomp"), NoNewPrivs: status("NoNewPrivs"),
		AppArmor: read("/proc/self/attr/apparmor/current"), UserMap: strings.Join(strings.Fields(read("/proc/self/uid_map")), " "),
		MaxUserNamespaces: setting("user/max_user_namespaces"),
		UnprivilegedClone: setting("kernel/unprivileged_userns_clone"),
		AppArmorRestrict:  setting("kernel/apparmor_restrict_unprivileged_userns"),
		NewUIDMap:         describeHelper("newuidmap"), NewGIDMap: describeHelper("newgidmap"),
		SubUIDs: describeRanges("/etc/subuid"), SubGIDs: describeRanges("/etc/subgid"),
		Container: container(), Masked: masked(), ForeignMounts: foreignMounts(),
	}
	return f
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}

// describeHelper returns where a helper is, and what takes its power.
func describeHelper(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return "missing"
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return path + " " + err.Error()
	}
	text := path
	if st.Mode&unix.S_ISUID == 0 && !hasFileCaps(path) {
		text += ", neither setuid nor with capabilities"
	} else if st.Uid != 0 {
		text += fmt.Sprintf(", owned by %d", st.Uid)
	}
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) == nil && fs.Flags&unix.ST_NOSUID != 0 {
		text += ", on a file system mounted nosuid"
	}
	return text
}

// describeRanges returns the ranges that a file gives to this user, like "100000+65536".
func describeRanges(file string) string {
	ranges, err := readRanges(file, userName(), fmt.Sprint(os.Geteuid()))
	if err != nil {
		return file + ": " + unwrapPath(err).Error()
	}
	var list []string
	for _, r := range ranges {
		list = append(list, fmt.Sprintf("%d+%d", r.outside, r.count))
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

func unwrapPath(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

// container guesses what kind of container this process is in.
func container() string {
	for file, name := range map[string]string{"/.dockerenv": "docker", "/run/.containerenv": "podman"} {
		if _, err := os.Stat(file); err == nil {
			return name
		}
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return "kubernetes"
	}
	return "none"
}

// masked returns what is mounted over parts of /proc, other than what every host has there.
func masked() []string {
	var list []string
	for line := range strings.Lines(read("/proc/self/mountinfo") + "\n") {
		field := strings.Fields(line)
		if len(field) < 5 || !strings.HasPrefix(field[4], "/proc/") {
			continue
		}
		if field[4] != "/proc/sys/fs/binfmt_misc" && field[4] != "/proc/fs/nfsd" {
			list = append(list, field[4])
		}
	}
	return list
}
