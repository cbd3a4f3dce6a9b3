package seccomp

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs the program of a policy as the kernel would.
type machine struct {
	*testing.T
	vm *bpf.VM
}

func newMachine(t *testing.T, p Policy) machine {
	t.Helper()
	text, err := p.program()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(text))
	if _, err := Compile(p); err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(text)
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, vm}
}

// call returns the action for a call.
func (m machine) call(arch, number uint32, args ...uint64) uint32 {
	m.Helper()
	// The machine of package bpf reads its words with the highest byte first, the kernel in
	// its own order; words alone are looked at, so words are what is turned.
	words := []uint32{number, arch, 0, 0}
	args = append(args, make([]uint64, 6-len(args))...)
	for _, a := range args {
		words = append(words, uint32(a), uint32(a>>32))
	}
	var data []byte
	for _, w := range words {
		data = binary.BigEndian.AppendUint32(data, w)
	}
	action, err := m.vm.Run(data)
	if err != nil {
		m.Fatal(err)
	}
	return uint32(action)
}

func (m machine) native(name string, args ...uint64) uint32 {
	m.Helper()
	n, ok := Number(name)
	if !ok {
		m.Fatalf("%s has no number", name)
	}
	return m.call(nativeArch, n, args...)
}

const eperm = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)

var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// expected is what a profile says, without a program.
func expected(p *specs.LinuxSeccomp, names []string, args [6]uint64, known bool) uint32 {
	if !known {
		return noCall
	}
	for _, free := range []bool{true, false} { // rules without conditions first
		for _, rule := range p.Syscalls {
			if (len(rule.Args) == 0) != free || !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(rule.Names, n) }) {
				continue
			}
			if slices.ContainsFunc(rule.Args, func(a specs.LinuxSeccompArg) bool { return !holds(a, args, names) }) {
				continue
			}
			a, _ := action(rule.Action, rule.ErrnoRet)
			return a
		}
	}
	a, _ := action(p.DefaultAction, p.DefaultErrnoRet)
	return a
}

func holds(a specs.LinuxSeccompArg, args [6]uint64, names []string) bool {
	v := args[a.Index]
	if names[0] == "socket" {
		v = uint64(uint32(v))
	}
	switch a.Op {
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpLessThan:
		return v < a.Value
	case specs.OpLessEqual:
		return v <= a.Value
	case specs.OpGreaterThan:
		return v > a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpMaskedEqual:
		return v&a.Value == a.ValueTwo
	}
	return false
}

// The program and the profile agree about every number and many arguments.
func TestProgramIsTheProfile(t *testing.T) {
	for name, caps := range map[string][]string{
		"none": nil, "default": defaultCaps, "all": append(slices.Clone(defaultCaps),
			"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_SYS_TIME", "CAP_DAC_READ_SEARCH"),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, Policy{Profile: Default, Caps: caps})
			profile, err := dockerDefault(caps)
			if err != nil {
				t.Fatal(err)
			}
			nativeCalls, compatCalls := tables()
			m.compare(profile, nativeArch, nativeCalls)
			m.compare(profile, compatArch, compatCalls)
		})
	}
}

func (m machine) compare(profile *specs.LinuxSeccomp, arch uint32, calls table) {
	names := map[uint32][]string{}
	for name, n := range calls {
		names[n] = append(names[n], name)
	}
	var last uint32
	for n, list := range names {
		for _, rule := range profile.Syscalls {
			if n < firstPrivate && slices.ContainsFunc(list, func(x string) bool { return slices.Contains(rule.Names, x) }) {
				last = max(last, n)
			}
		}
	}
	for n := range uint32(1000) {
		names[n] = append(names[n], "")
	}
	for _, n := range []uint32{1 << 30, 1<<30 + 59, 1 << 31, math.MaxUint32, firstPrivate, firstPrivate - 1} {
		names[n] = append(names[n], "")
	}
	for n, list := range names {
		for range 40 {
			args := someArgs()
			want := expected(profile, list, args, n <= last || n > firstPrivate && len(list) > 1)
			if n > last && list[0] != "" {
				want = expected(profile, list, args, n > firstPrivate)
			}
			if got := m.call(arch, n, args[:]...); got != want {
				m.Fatalf("call %d %q %#x: got %#x, want %#x", n, list, args, got, want)
			}
		}
	}
}

// someArgs returns arguments near the bounds that profiles compare with.
func someArgs() (args [6]uint64) {
	bounds := []uint64{0, 1, 8, 38, 39, 40, 41, 0x20000, 0x20008, unix.CLONE_NEWUSER, unix.CLONE_NEWNS, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 63}
	for i := range args {
		args[i] = bounds[rand.IntN(len(bounds))] + bounds[rand.IntN(len(bounds))]<<(32*rand.IntN(2)) + uint64(rand.IntN(3)) - 1
	}
	return args
}

func TestConditions(t *testing.T) {
	values := []uint64{0, 1, 2, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 2, 2 << 32, 2<<32 + 1, math.MaxUint64, math.MaxUint64 - 1}
	for _, o := range []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual} {
		for _, v := range values {
			for _, second := range []specs.LinuxSeccompArg{{Index: 1, Value: 0, Op: specs.OpEqualTo}, {Index: 1, Value: 3 << 32, ValueTwo: 2 << 32, Op: specs.OpMaskedEqual}} {
				arg := specs.LinuxSeccompArg{Index: 0, Value: v, Op: o}
				c1, err := condition("x", arg)
				if err != nil {
					t.Fatal(err)
				}
				c2, err := condition("x", second)
				if err != nil {
					t.Fatal(err)
				}
				code := append(clause{[]cond{c1, c2}, 1}.code(), bpf.RetConstant{Val: 2})
				vm, err := bpf.NewVM(code)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range values {
					for _, b := range values {
						want := uint32(2)
						if args := [6]uint64{a, b}; holds(arg, args, []string{"x"}) && holds(second, args, []string{"x"}) {
							want = 1
						}
						if got := (machine{t, vm}).call(nativeArch, 0, a, b); got != want {
							t.Fatalf("%s %#x and %v on %#x, %#x: got %d, want %d", o, v, second, a, b, got, want)
						}
					}
				}
			}
		}
	}
	if _, err := condition("x", specs.LinuxSeccompArg{Op: "SCMP_CMP_FLY"}); err == nil {
		t.Error("an operator that nobody knows")
	}
}

func TestDefault(t *testing.T) {
	m := newMachine(t, Policy{Profile: Default, Caps: defaultCaps, NoSync: true})
	for name, want := range map[string]uint32{
		"read": allow, "mount": eperm, "keyctl": eperm, "bpf": eperm, "io_uring_setup": eperm, "clone3": noCall,
		"chroot": allow, "ptrace": allow, "unshare": eperm, "setns": eperm, "fsync": done, "syncfs": done, "userfaultfd": eperm,
	} {
		if got := m.native(name); got != want {
			t.Errorf("%s: got %#x, want %#x", name, got, want)
		}
	}
	if got := m.native("clone", unix.CLONE_NEWUSER|unix.CLONE_VM); got != eperm {
		t.Errorf("clone of a user namespace: %#x", got)
	}
	if got := m.native("socket", 1<<32+unix.AF_ALG); got != eperm {
		t.Errorf("socket of a family that looks large: %#x", got)
	}
	if got := m.native("msync", 0, 0, unix.MS_ASYNC); got != allow {
		t.Errorf("msync that asks: %#x", got)
	}
	if got := m.native("msync", 0, 0, unix.MS_SYNC|unix.MS_INVALIDATE); got != done {
		t.Errorf("msync that waits: %#x", got)
	}
	if got := m.call(unix.AUDIT_ARCH_MIPS, 0); got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("an architecture that cannot be: %#x", got)
	}
}

func TestNotify(t *testing.T) {
	const ask = uint32(unix.SECCOMP_RET_USER_NOTIF)
	for _, profile := range []Profile{Default, Unconfined} {
		m := newMachine(t, Policy{Profile: profile, Caps: nil, Deny: []string{"io_uring_setup"}, Notify: []Call{
			{Name: "fchown"},
			{Name: "openat", Arg: 2, Mask: unix.O_CREAT},
			{Name: "prctl", Arg: 0, Mask: math.MaxUint32, Values: []uint32{unix.PR_SET_KEEPCAPS, unix.PR_GET_KEEPCAPS}},
			{Name: "chroot"},
			{Name: "no such call"},
		}})
		chroot := ask
		if profile == Default {
			chroot = eperm
		}
		for _, c := range []struct {
			got, want uint32
		}{
			{m.native("fchown", 1), ask},
			{m.native("openat", 1, 2, unix.O_RDWR), allow},
			{m.native("openat", 1, 2, unix.O_RDWR|unix.O_CREAT), ask},
			{m.native("prctl", unix.PR_SET_KEEPCAPS), ask},
			{m.native("prctl", unix.PR_GET_KEEPCAPS), ask},
			{m.native("prctl", unix.PR_SET_NAME), allow},
			{m.native("chroot"), chroot},
			{m.native("io_uring_setup"), noCall},
			{m.call(nativeArch, 1<<30+1), noCall},
		} {
			if c.got != c.want {
				t.Errorf("%s: got %#x, want %#x", profile, c.got, c.want)
			}
		}
	}
	_, err := Compile(Policy{Profile: Default, Notify: []Call{{Name: "clone"}}})
	if !errors.Is(err, errRuled) {
		t.Errorf("got %v", err)
	}
}

func TestNothingToFilter(t *testing.T) {
	if f, err := Compile(Policy{Profile: Unconfined}); f != nil || err != nil {
		t.Errorf("got %v, %v", f, err)
	}
	if _, err := Compile(Policy{}); err == nil {
		t.Error("a profile without a name")
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(Policy{Profile: Default, Caps: defaultCaps, NoSync: true}); err != nil {
			b.Fatal(err)
		}
	}
}
