// Package seccomp makes filters of system calls: Docker's default profile, and
// what a sandbox adds to it, as a program for the kernel.
//
// The program is a binary search over ranges of numbers, one per architecture, so
// that it stays short. Most calls do not even run it: the kernel remembers which ones
// are allowed whatever their arguments (Linux 5.11).
package seccomp

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

//go:generate go run gen.go

// A Profile is a set of rules.
type Profile string

// The profiles.
const (
	Default    Profile = "default"    // that of Docker
	Unconfined Profile = "unconfined" // everything is allowed
)

// A Policy says what a filter does.
type Policy struct {
	Profile Profile
	// Caps are the capabilities of the process, as "CAP_CHOWN". The default profile
	// allows more to those who have more.
	Caps []string
	// NoSync answers calls that wait for a disk at once.
	NoSync bool
	// Notify are the calls that a supervisor answers, where the profile allows them, in
	// the kernel's own architecture.
	Notify []Call
	// Deny are calls that do not exist (ENOSYS), whatever the profile says.
	Deny []string
}

// A Call is a system call, or those of its uses where the bits Mask of the argument Arg have a
// value among Values.
type Call struct {
	Name   string
	Arg    int
	Mask   uint32   // 0: whatever the arguments
	Values []uint32 // if empty, any but 0
}

// A Filter is a program that the kernel runs at every system call.
type Filter []unix.SockFilter

// Compile returns the program for p. It is nil when p allows everything.
func Compile(p Policy) (Filter, error) {
	text, err := p.program()
	if err != nil || text == nil {
		return nil, err
	}
	raw, err := bpf.Assemble(text)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	f := make(Filter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return f, nil
}

// maxProgram is BPF_MAXINSNS.
const maxProgram = 4096

func (p Policy) program() ([]bpf.Instruction, error) {
	native, compat, err := p.rules()
	if err != nil || native == nil {
		return nil, err
	}
	text := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for _, a := range []struct {
		id    uint32
		rules *ruleSet
	}{{nativeArch, native}, {compatArch, compat}} {
		code := append([]bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}, a.rules.code()...)
		text = append(text,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.id, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(code))})
		text = append(text, code...)
	}
	text = append(text, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS})
	if len(text) > maxProgram {
		return nil, fmt.Errorf("seccomp: %d instructions are more than the kernel takes", len(text))
	}
	return text, nil
}

// MarshalBinary returns the program as the kernel of this machine takes it.
func (f Filter) MarshalBinary() ([]byte, error) {
	return binary.Append(nil, binary.NativeEndian, []unix.SockFilter(f))
}

// UnmarshalBinary reads what MarshalBinary returned.
func (f *Filter) UnmarshalBinary(b []byte) error {
	list := make([]unix.SockFilter, len(b)/binary.Size(unix.SockFilter{}))
	_, err := binary.Decode(b, binary.NativeEndian, list)
	*f = list
	return err
}

// Install puts the calling thread, which must have no_new_privs or CAP_SYS_ADMIN, under f for good, with all that it
// will fork or execute. When listen is set it returns the descriptor where a supervisor gets
// the calls to answer.
func Install(f Filter, listen bool) (listener int, err error) {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	// Without SPEC_ALLOW, kernels before 5.16 slow the process down by 10 % and more.
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	if !listen {
		_, err := install(flags, &prog)
		return -1, err
	}
	flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	// A signal must not restart a call that was answered already. New in Linux 5.19.
	listener, err = install(flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog)
	if err == unix.EINVAL {
		listener, err = install(flags, &prog)
	}
	return listener, err
}

func install(flags uintptr, prog *unix.SockFprog) (int, error) {
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(prog)))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// A table holds the numbers of system calls, ordered by name.
type table []struct {
	name   string
	number uint32
}

// number returns the number of a call; other architectures have calls that this one lacks.
func (t table) number(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(t, name, func(e struct {
		name   string
		number uint32
	}, name string) int {
		return strings.Compare(e.name, name)
	})
	if !ok {
		return 0, false
	}
	return t[i].number, true
}

// Number returns the number of a system call of the kernel's own architecture, and whether it has one.
func Number(name string) (uint32, bool) { return nativeCalls.number(name) }

// Name returns the name of a system call of the kernel's own architecture, "" if it is not known.
func Name(number int) string {
	for _, e := range nativeCalls {
		if e.number == uint32(number) {
			return e.name
		}
	}
	return ""
}

// A clause is an action for the calls that fulfil all conditions.
type clause struct {
	conds  []cond
	action uint32
}

// A ruleSet is what a filter does with the calls of one architecture: the first clause that fits counts.
type ruleSet struct {
	calls    map[uint32][]clause
	fallback uint32 // for calls without a clause that fits
	// known is the highest number that the author of the profile had heard of. What came later does
	// not exist, so that programs use what they used before; they would not after EPERM.
	known uint32
}

// An interval is all numbers from first to the next interval.
type interval struct {
	first   uint32
	clauses []clause // ends with one without conditions
}

// intervals returns the whole range of numbers, split where the action changes.
func (r *ruleSet) intervals() []interval {
	starts := map[uint32]bool{0: true, r.known + 1: true} // 0 once more when everything is known
	for n := range r.calls {
		starts[n], starts[n+1] = true, true
	}
	var list []interval
	for _, n := range slices.Sorted(maps.Keys(starts)) {
		clauses := r.closed(n)
		if len(list) > 0 {
			last := list[len(list)-1].clauses
			if len(clauses) == 1 && len(last) == 1 && clauses[0].action == last[0].action {
				continue
			}
		}
		list = append(list, interval{n, clauses})
	}
	return list
}

// closed returns the clauses for a number up to the first without conditions, which is there.
func (r *ruleSet) closed(n uint32) []clause {
	list := r.calls[n]
	if i := slices.IndexFunc(list, func(c clause) bool { return len(c.conds) == 0 }); i >= 0 {
		return list[:i+1]
	}
	last := clause{action: r.fallback}
	if n > r.known {
		last.action = noCall
	}
	return append(list[:len(list):len(list)], last)
}

// code returns the instructions that decide about the number in the accumulator.
func (r *ruleSet) code() []bpf.Instruction { return search(r.intervals()) }

func search(list []interval) []bpf.Instruction {
	if len(list) == 1 {
		var code []bpf.Instruction
		for _, c := range list[0].clauses {
			code = append(code, c.code()...)
		}
		return code
	}
	mid := len(list) / 2
	low, high := search(list[:mid]), search(list[mid:])
	code := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: list[mid].first, SkipTrue: uint8(min(len(low), 255))}}
	if len(low) > 255 {
		code = []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: list[mid].first, SkipFalse: 1},
			bpf.Jump{Skip: uint32(len(low))},
		}
	}
	return slices.Concat(code, low, high)
}

// code returns instructions that end with the action if all conditions hold, and fall through if not.
func (c clause) code() []bpf.Instruction {
	code := []bpf.Instruction{bpf.RetConstant{Val: c.action}}
	for _, cond := range slices.Backward(c.conds) {
		code = append(cond.code(len(code)), code...)
	}
	return code
}
