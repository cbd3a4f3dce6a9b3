package seccomp

import (
	"errors"
	"fmt"
	"slices"

	docker "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Actions of a filter.
const (
	allow   = uint32(unix.SECCOMP_RET_ALLOW)
	noCall  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
	noRight = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	done    = uint32(unix.SECCOMP_RET_ERRNO) // with error 0
)

// syncs are the calls that wait for a disk. What a step writes is thrown away after a crash anyway.
var syncs = []string{"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "arm_sync_file_range"}

// rules returns the rules for the kernel's own architecture and for the 32-bit one that it runs as well,
// or nil if everything is allowed.
func (p Policy) rules() (native, compat *ruleSet, err error) {
	nativeCalls, compatCalls := tables()
	switch p.Profile {
	case Default:
		profile, err := dockerDefault(p.Caps)
		if err != nil {
			return nil, nil, err
		}
		if native, err = profileRules(profile, nativeCalls); err != nil {
			return nil, nil, err
		}
		if compat, err = profileRules(profile, compatCalls); err != nil {
			return nil, nil, err
		}
	case Unconfined:
		if !p.NoSync && len(p.Notify) == 0 && len(p.Deny) == 0 {
			return nil, nil, nil
		}
		native = &ruleSet{calls: map[uint32][]clause{}, fallback: allow, known: maxNative}
		compat = &ruleSet{calls: map[uint32][]clause{}, fallback: allow, known: 1<<32 - 1}
	default:
		return nil, nil, fmt.Errorf("seccomp: profile %q is not known", p.Profile)
	}
	for _, c := range p.Notify {
		if err := native.notify(c); err != nil {
			return nil, nil, err
		}
	}
	p.override(native, nativeCalls)
	p.override(compat, compatCalls)
	return native, compat, nil
}

// firstPrivate is where 32-bit ARM has numbers that are outside the common sequence.
const firstPrivate = 0xf0000

// maxNative is the highest number that is not one of x32, which no filter here knows.
const maxNative = 1<<30 - 1

// dockerDefault returns Docker's profile for a process with caps on this kernel.
func dockerDefault(caps []string) (*specs.LinuxSeccomp, error) {
	return docker.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: caps},
	}})
}

// profileRules returns the rules of profile for the architecture of calls.
func profileRules(profile *specs.LinuxSeccomp, calls table) (*ruleSet, error) {
	fallback, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	r := &ruleSet{calls: map[uint32][]clause{}, fallback: fallback}
	for _, rule := range profile.Syscalls {
		a, err := action(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range rule.Names {
			n, ok := calls[name]
			if !ok {
				continue
			}
			c := clause{action: a}
			for _, arg := range rule.Args {
				cond, err := condition(name, arg)
				if err != nil {
					return nil, err
				}
				c.conds = append(c.conds, cond)
			}
			r.calls[n] = append(r.calls[n], c)
			if n < firstPrivate {
				r.known = max(r.known, n)
			}
		}
	}
	// A rule without conditions is stronger than those with, as for libseccomp.
	for n, list := range r.calls {
		slices.SortStableFunc(list, func(a, b clause) int { return min(len(a.conds), 1) - min(len(b.conds), 1) })
		r.calls[n] = list
	}
	return r, nil
}

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return allow, nil
	case specs.ActErrno:
		code := uint32(unix.EPERM)
		if errno != nil {
			code = uint32(*errno)
		}
		return unix.SECCOMP_RET_ERRNO | code, nil
	}
	return 0, fmt.Errorf("seccomp: action %s is not known", a)
}

var ops = map[specs.LinuxSeccompOperator]op{
	specs.OpEqualTo: equal, specs.OpNotEqual: notEqual, specs.OpLessThan: less, specs.OpLessEqual: lessOrEqual,
	specs.OpGreaterThan: greater, specs.OpGreaterEqual: greaterOrEqual, specs.OpMaskedEqual: masked,
}

func condition(call string, arg specs.LinuxSeccompArg) (cond, error) {
	o, ok := ops[arg.Op]
	if !ok || arg.Index > 5 {
		return cond{}, fmt.Errorf("seccomp: condition %s on argument %d is not known", arg.Op, arg.Index)
	}
	// The kernel takes the family of a socket as an int: 1<<32 + AF_ALG is AF_ALG to it, and greater
	// than all that is forbidden to a comparison of 64 bits.
	c := cond{arg: int(arg.Index), op: o, value: arg.Value, narrow: call == "socket" && arg.Index == 0}
	if o == masked {
		c.mask, c.value = arg.Value, arg.ValueTwo
	}
	return c, nil
}

var errRuled = errors.New("seccomp: the profile has conditions of its own")

// notify hands c to the supervisor where it is allowed.
func (r *ruleSet) notify(c Call) error {
	n, ok := Number(c.Name)
	if !ok {
		return nil // arm64 lacks the old forms of many calls
	}
	old := r.closed(n)
	if len(old) > 1 {
		return fmt.Errorf("%s: %w", c.Name, errRuled)
	}
	if old[0].action != allow {
		return nil
	}
	const ask = unix.SECCOMP_RET_USER_NOTIF
	var list []clause
	switch any := []uint32{0}; {
	case c.Mask == 0:
		list = []clause{{action: ask}}
	case len(c.Values) == 0:
		list = []clause{{c.conds(any), allow}, {action: ask}}
	default:
		for _, v := range c.Values {
			list = append(list, clause{c.conds([]uint32{v}), ask})
		}
		list = append(list, clause{action: allow})
	}
	r.calls[n] = list
	return nil
}

func (c Call) conds(values []uint32) []cond {
	var list []cond
	for _, v := range values {
		list = append(list, cond{arg: c.Arg, op: masked, mask: uint64(c.Mask), value: uint64(v), narrow: true})
	}
	return list
}

// override adds what comes before all rules of a profile.
func (p Policy) override(r *ruleSet, calls table) {
	set := func(name string, clauses ...clause) {
		if n, ok := calls[name]; ok {
			r.calls[n] = append(clauses, r.closed(n)...)
		}
	}
	if p.NoSync {
		for _, name := range syncs {
			set(name, clause{action: done})
		}
		// With other flags msync only asks whether the memory is mapped, which some libraries rely on.
		set("msync", clause{[]cond{{arg: 2, op: masked, mask: unix.MS_SYNC, value: unix.MS_SYNC, narrow: true}}, done})
	}
	// A step may share the terminal of who watches it, and must not type there.
	for _, request := range []uint64{unix.TIOCSTI, unix.TIOCLINUX} {
		set("ioctl", clause{[]cond{{arg: 1, op: equal, value: request, narrow: true}}, noRight})
	}
	for _, name := range p.Deny {
		set(name, clause{action: noCall})
	}
}
