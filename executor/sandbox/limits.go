package sandbox

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits bound what a sandbox may use. Zero values mean no limit.
type Limits struct {
	Memory    int64  `json:"memory,omitempty"` // bytes, with swap
	CPUQuota  int64  `json:"cpuQuota,omitempty"`
	CPUPeriod int64  `json:"cpuPeriod,omitempty"` // both in microseconds: quota of CPU time per period
	CPUSet    string `json:"cpuSet,omitempty"`    // like "0-2,4"
	PIDs      int64  `json:"pids,omitempty"`
	// CgroupParent is the control group to be below, a path below the root of each hierarchy; "" is our own.
	CgroupParent string   `json:"cgroupParent,omitempty"`
	Rlimits      []Rlimit `json:"rlimits,omitempty"`
}

// An Rlimit is one of setrlimit(2).
type Rlimit struct {
	Name string `json:"name"` // as in "nofile"
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// rlimits are the numbers of the limits that Docker knows.
var rlimits = map[string]int{
	"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS,
	"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// ParseRlimit reads the value of --ulimit, "nofile=1024:2048"; -1 is without limit.
func ParseRlimit(text string) (Rlimit, error) {
	name, value, ok := strings.Cut(text, "=")
	if _, known := rlimits[name]; !ok || !known {
		return Rlimit{}, fmt.Errorf("%q is not of the form NAME=SOFT[:HARD] with a known NAME", text)
	}
	softText, hardText, two := strings.Cut(value, ":")
	soft, err := rlimitValue(softText)
	hard := soft
	if err == nil && two {
		hard, err = rlimitValue(hardText)
	}
	if err == nil && soft > hard {
		err = errors.New("the soft limit is higher than the hard one")
	}
	return Rlimit{name, soft, hard}, err
}

func rlimitValue(text string) (uint64, error) {
	if text == "-1" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(text, 10, 63)
}

// what says what it is to set the limit.
func (r *Rlimit) what() string { return fmt.Sprintf("limit %s to %d:%d", r.Name, r.Soft, r.Hard) }

// inGroup reports whether a limit takes a control group.
func (l *Limits) inGroup() bool {
	return l.Memory > 0 || l.CPUQuota > 0 || l.CPUSet != "" || l.PIDs > 0
}

// ParseCPUs reads a list of processors like "0-2,4".
func ParseCPUs(text string) (set unix.CPUSet, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 10)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(last, 10, 10)
		}
		if err != nil || b < a || b >= uint64(len(set)*bits.UintSize) {
			return set, fmt.Errorf("%q is no list of processors like 0-2,4", text)
		}
		for n := a; n <= b; n++ {
			set.Set(int(n))
		}
	}
	return set, nil
}

// Enforce returns the limits as they can be kept on this host, and what of l cannot, in words. Without control groups
// processors are given by affinity and memory is limited for each process by itself.
func (l Limits) Enforce() (possible Limits, not []string) {
	if l.inGroup() {
		g, missing := newGroup(l)
		g.remove()
		for _, m := range missing {
			not = append(not, l.without(m)...)
		}
	}
	if l.Rlimits != nil {
		l.Rlimits, not = reachable(l.Rlimits, not)
	}
	return l, not
}

// without gives up what the controller would do, and does what it can in another way.
func (l *Limits) without(controller string) []string {
	switch controller {
	case "memory":
		r := Rlimit{"data", uint64(l.Memory), uint64(l.Memory)}
		l.Rlimits = append(l.Rlimits[:len(l.Rlimits):len(l.Rlimits)], r)
		l.Memory = 0
		return []string{"memory is limited for each process alone, not for a step"}
	case "cpu":
		n := (l.CPUQuota + l.CPUPeriod - 1) / l.CPUPeriod
		l.CPUQuota = 0
		if l.CPUSet == "" {
			l.CPUSet = firstCPUs(int(n))
		}
		return []string{"CPU time is limited to whole processors: " + l.CPUSet}
	case "cpuset": // affinity is set in any case
		return []string{"a step may leave the processors it is given"}
	case "pids":
		l.PIDs = 0
		return []string{"the number of processes is not limited"}
	}
	return nil
}

// firstCPUs returns n of the processors that this process may use.
func firstCPUs(n int) string {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return ""
	}
	var list []string
	for cpu := 0; cpu < len(set)*bits.UintSize && len(list) < n; cpu++ {
		if set.IsSet(cpu) {
			list = append(list, strconv.Itoa(cpu))
		}
	}
	return strings.Join(list, ",")
}

// reachable lowers limits to what this process may give: raising a hard limit takes CAP_SYS_RESOURCE of the host.
func reachable(want []Rlimit, not []string) ([]Rlimit, []string) {
	out := make([]Rlimit, 0, len(want))
	for _, r := range want {
		var have unix.Rlimit
		if unix.Prlimit(0, rlimits[r.Name], nil, &have) == nil && r.Hard > have.Max && !mayRaise() {
			not = append(not, fmt.Sprintf("ulimit %s stays at %d", r.Name, have.Max))
			r.Hard, r.Soft = have.Max, min(r.Soft, have.Max)
		}
		out = append(out, r)
	}
	return out, not
}

// mayRaise reports whether this process may raise hard limits.
func mayRaise() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	ns, _ := os.Readlink("/proc/self/ns/user")
	const host = "user:[4026531837]" // PROC_USER_INIT_INO: the kernel asks for the capability there
	return ns == host && unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
