package executor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/snapshot"
)

// A ForeignError says that a program is for another kind of processor, and that nothing here runs it.
type ForeignError struct {
	Exec     *sandbox.ExecError
	Machine  string // as the emulator calls it, like "aarch64"
	Emulator string // of this host, which the kernel does not know of; "" where there is none
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%v: it is a program for %s, for which this kernel has no emulator", e.Exec, e.Machine)
}

func (e *ForeignError) Unwrap() error { return e.Exec }

// Hint says what to do about it.
func (e *ForeignError) Hint() string {
	const other = ", or run the step on this machine, in a stage FROM --platform=$BUILDPLATFORM"
	if e.Emulator != "" {
		return fmt.Sprintf("%s is here, but not registered in /proc/sys/fs/binfmt_misc: install the package binfmt-support, or start systemd-binfmt%s", e.Emulator, other)
	}
	return "install the package qemu-user-static" + other
}

// emulate makes the kernel run the program of c, when err says that it could not be executed and it is for another kind
// of processor. An error is what to say where another try makes no sense.
func (x *Executor) emulate(c *container, err error) error {
	var failed *sandbox.ExecError
	if !errors.As(err, &failed) || !errors.Is(failed.Err, unix.ENOEXEC) {
		return err
	}
	m, ok := machineOf(programHead(c.view, c.process))
	if !ok {
		return err
	}
	foreign := &ForeignError{Exec: failed, Machine: m.name}
	format, ok := m.emulator()
	if !ok {
		return foreign
	}
	foreign.Emulator = format.Interpreter
	if !x.OwnNamespace || sandbox.Register(format) != nil {
		return foreign
	}
	return c.renew()
}

// renew makes the overlays of c, which were mounted and never used, such that they can be mounted once more: the kernel
// refuses the scratch space of a volatile one.
func (c *container) renew() error {
	overlays := []*sandbox.Root{&c.spec.Root}
	for _, m := range c.spec.Mounts {
		if m.Overlay != nil {
			overlays = append(overlays, m.Overlay)
		}
	}
	for _, o := range overlays {
		if o.Work == "" { // it is flat
			continue
		}
		if err := cache.RemoveAll(o.Work); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := c.mkdir(filepath.Base(o.Work)); err != nil {
			return err
		}
	}
	return nil
}

// headSize is how much of a program tells what it is for.
const headSize = 20

// programHead returns the beginning of the program of p, nil where that cannot be told.
func programHead(view *snapshot.View, p process) []byte {
	name := p.Args[0]
	candidates := []string{path.Join("/", p.Cwd, name)}
	switch {
	case strings.HasPrefix(name, "/"):
		candidates = []string{name}
	case !strings.Contains(name, "/"):
		candidates = nil
		for _, kv := range p.Env {
			if list, ok := strings.CutPrefix(kv, "PATH="); ok {
				for dir := range strings.SplitSeq(list, ":") {
					candidates = append(candidates, path.Join("/", p.Cwd, dir, name))
					if strings.HasPrefix(dir, "/") {
						candidates[len(candidates)-1] = path.Join(dir, name)
					}
				}
			}
		}
	}
	for _, c := range candidates {
		q, err := snapshot.Resolve(view, c, true)
		if err != nil {
			continue
		}
		e, ok, err := view.Lstat(q)
		if err != nil || !ok || e.Type != snapshot.Regular || e.Mode&0o111 == 0 {
			continue
		}
		r, err := view.Open(e)
		if err != nil {
			return nil
		}
		defer r.Close()
		head := make([]byte, headSize)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil
		}
		return head
	}
	return nil
}

// A machine is a kind of processor, by the header of its programs.
type machine struct {
	name string
	head []byte
}

// kind is what tells machines apart.
type kind struct {
	elf.Machine
	elf.Class
	elf.Data
}

// machines are the kinds that images are made for, by the names that QEMU has for them.
var machines = map[kind]string{
	{elf.EM_386, elf.ELFCLASS32, elf.ELFDATA2LSB}:       "i386",
	{elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB}:    "x86_64",
	{elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB}:       "arm",
	{elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB}:   "aarch64",
	{elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB}:     "riscv64",
	{elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB}:     "ppc64le",
	{elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2MSB}:     "ppc64",
	{elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB}:      "s390x",
	{elf.EM_MIPS, elf.ELFCLASS32, elf.ELFDATA2LSB}:      "mipsel",
	{elf.EM_MIPS, elf.ELFCLASS32, elf.ELFDATA2MSB}:      "mips",
	{elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2LSB}:      "mips64el",
	{elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2MSB}:      "mips64",
	{elf.EM_LOONGARCH, elf.ELFCLASS64, elf.ELFDATA2LSB}: "loongarch64",
}

// machineOf reads the beginning of a program.
func machineOf(head []byte) (m machine, ok bool) {
	if len(head) < headSize || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return m, false
	}
	k := kind{Class: elf.Class(head[elf.EI_CLASS]), Data: elf.Data(head[elf.EI_DATA])}
	order := binary.ByteOrder(binary.LittleEndian)
	if k.Data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	k.Machine = elf.Machine(order.Uint16(head[18:]))
	m.name, ok = machines[k]
	m.head = head
	return m, ok
}

// emulator returns the format of the machine's programs with the emulator that this host has for them.
func (m machine) emulator() (f sandbox.Format, ok bool) {
	f = sandbox.Format{Name: "build-" + m.name, Magic: bytes.Clone(m.head), Mask: bytes.Repeat([]byte{0xff}, headSize)}
	f.Mask[elf.EI_OSABI] = 0
	clear(f.Magic[elf.EI_ABIVERSION:16])
	clear(f.Mask[elf.EI_ABIVERSION:16])
	// Programs are of type 2 or 3.
	low := 16
	if elf.Data(m.head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		low = 17
	}
	f.Magic[low], f.Mask[low] = 2, 0xfe
	for _, name := range []string{"qemu-" + m.name + "-static", "qemu-" + m.name} {
		file, err := exec.LookPath(name)
		if err != nil || !isStatic(file) {
			continue
		}
		f.Interpreter = file
		// Debian has a second name for it, by which it knows that it gets one argument more.
		if second := filepath.Join(filepath.Dir(file), "../libexec/qemu-binfmt", m.name+"-binfmt-P"); isStatic(second) {
			f.Interpreter, f.KeepName = second, true
		}
		return f, true
	}
	return f, false
}

// isStatic reports whether a program needs no libraries, which sandboxes would not have.
func isStatic(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
