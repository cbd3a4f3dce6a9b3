package main

import (
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// limitOptions are the flags that bound what a step or a container uses.
type limitOptions struct {
	memory, shmSize, cpus, cpuset, parent string
	quota, period, pids                   int64
	ulimits                               []string
}

func (o *limitOptions) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.memory, "memory", "m", "", "`SIZE` of memory and swap that each step may use, like 512m")
	f.StringVar(&o.cpus, "cpus", "", "CPU time that each step may use, as a `NUMBER` of processors, like 1.5")
	f.Int64Var(&o.quota, "cpu-quota", 0, "CPU time that each step may use in a period, in `MICROSECONDS`")
	f.Int64Var(&o.period, "cpu-period", 0, "that period, in `MICROSECONDS` (default 100000)")
	f.StringVar(&o.cpuset, "cpuset-cpus", "", "processors that steps run on, a `LIST` like 0-2,4")
	f.Int64Var(&o.pids, "pids-limit", 0, "the `NUMBER` of processes that each step may have at once")
	repeatedVar(f, &o.ulimits, "ulimit", "", "resource limit of each process, as `NAME=SOFT[:HARD]`")
	f.StringVar(&o.shmSize, "shm-size", "", "`SIZE` of /dev/shm (default 64m)")
	f.StringVar(&o.parent, "cgroup-parent", "", "control `GROUP` that those of steps are made in")
}

// limits reads the flags.
func (o *limitOptions) limits() (l sandbox.Limits, shm int64, err error) {
	l = sandbox.Limits{CPUSet: o.cpuset, CgroupParent: o.parent, CPUQuota: o.quota, CPUPeriod: 100_000, PIDs: max(o.pids, 0)}
	if l.Memory, err = bytesOf("--memory", o.memory); err != nil {
		return l, 0, err
	}
	if shm, err = bytesOf("--shm-size", o.shmSize); err != nil {
		return l, 0, err
	}
	if o.period != 0 {
		l.CPUPeriod = o.period
	}
	if l.CPUPeriod < 1000 || l.CPUPeriod > 1_000_000 || l.CPUQuota != 0 && l.CPUQuota < 1000 {
		return l, 0, usagef("a period is 1000 to 1000000 microseconds, a quota at least 1000", "--cpu-period %d, --cpu-quota %d: out of range", l.CPUPeriod, l.CPUQuota)
	}
	if o.cpus != "" {
		n, err := strconv.ParseFloat(o.cpus, 64)
		if err != nil || !(n >= 0.01 && n <= 100_000) {
			return l, 0, usagef("it is a number of processors, like 1.5", "--cpus %s: no such number", o.cpus)
		}
		if o.quota != 0 {
			return l, 0, usagef("name one of them", "--cpus and --cpu-quota mean the same")
		}
		l.CPUQuota = int64(n * float64(l.CPUPeriod))
	}
	if o.cpuset != "" {
		if _, err := sandbox.ParseCPUs(o.cpuset); err != nil {
			return l, 0, &usageError{err: err}
		}
	}
	for _, text := range o.ulimits {
		r, err := sandbox.ParseRlimit(text)
		if err != nil {
			return l, 0, usagef("it looks like nofile=1024:2048", "--ulimit %s: %w", text, err)
		}
		l.Rlimits = append(l.Rlimits, r)
	}
	return l, shm, nil
}

func bytesOf(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	const least = 1 << 20
	if err != nil || n < least {
		return 0, usagef("it is a number of bytes, like 512m or 2g, and at least 1m", "%s %s: no such size", flag, text)
	}
	return n, nil
}

// limit makes the limits hold for all that is run, and says which this host cannot keep.
func (a *app) limit(o *limitOptions) error {
	l, shm, err := o.limits()
	if err != nil {
		return err
	}
	l, not := l.Enforce()
	if len(not) > 0 {
		a.warn("limits: " + strings.Join(not, "; ") + " (no control group may be made here)")
	}
	a.executor.Limits, a.executor.ShmSize = l, shm
	return nil
}
