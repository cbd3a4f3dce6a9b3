package seccomp

import "golang.org/x/net/bpf"

// Offsets in struct seccomp_data of a little-endian machine.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// A cond compares an argument of a call.
type cond struct {
	arg   int
	op    op
	mask  uint64 // for masked
	value uint64
	// narrow leaves out the upper half, as the kernel does with arguments of type int.
	narrow bool
}

type op int

const (
	equal op = iota
	notEqual
	less
	lessOrEqual
	greater
	greaterOrEqual
	masked // argument & mask == value
)

// code returns instructions that fall through if c holds, and otherwise skip what follows them and n more.
// The machine has 32 bits, so the upper half decides first.
func (c cond) code(n int) []bpf.Instruction {
	fail := uint8(n)
	hi, lo := uint32(c.value>>32), uint32(c.value)
	loadHi := bpf.LoadAbsolute{Off: uint32(offArgs + 8*c.arg + 4), Size: 4}
	loadLo := bpf.LoadAbsolute{Off: uint32(offArgs + 8*c.arg), Size: 4}
	test := func(j bpf.JumpTest, v uint32, skipTrue, skipFalse uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: j, Val: v, SkipTrue: skipTrue, SkipFalse: skipFalse}
	}
	var last bpf.Instruction // on the lower half
	switch c.op {
	case equal, masked:
		last = test(bpf.JumpEqual, lo, 0, fail)
	case notEqual:
		last = test(bpf.JumpEqual, lo, fail, 0)
	case less:
		last = test(bpf.JumpGreaterOrEqual, lo, fail, 0)
	case lessOrEqual:
		last = test(bpf.JumpGreaterThan, lo, fail, 0)
	case greater:
		last = test(bpf.JumpGreaterThan, lo, 0, fail)
	case greaterOrEqual:
		last = test(bpf.JumpGreaterOrEqual, lo, 0, fail)
	}
	low := []bpf.Instruction{loadLo, last}
	if c.op == masked {
		low = []bpf.Instruction{loadLo, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(c.mask)}, last}
	}
	if c.narrow {
		return low
	}
	toFail, toEnd := uint8(len(low)+n), uint8(len(low))
	high := []bpf.Instruction{loadHi}
	switch c.op {
	case equal:
		high = append(high, test(bpf.JumpEqual, hi, 0, toFail))
	case masked:
		high = append(high, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(c.mask >> 32)}, test(bpf.JumpEqual, hi, 0, toFail))
	case notEqual:
		high = append(high, test(bpf.JumpEqual, hi, 0, toEnd))
	case less, lessOrEqual:
		high = append(high, test(bpf.JumpGreaterThan, hi, toFail+1, 0), test(bpf.JumpEqual, hi, 0, toEnd))
	case greater, greaterOrEqual:
		high = append(high, test(bpf.JumpGreaterThan, hi, toEnd+1, 0), test(bpf.JumpEqual, hi, 0, toFail))
	}
	return append(high, low...)
}
