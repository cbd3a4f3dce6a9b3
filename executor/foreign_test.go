package executor

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// head is the beginning of a program.
func head(class elf.Class, data elf.Data, machine elf.Machine) []byte {
	b := make([]byte, headSize)
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(class), byte(data), 1
	low, high := 0, 1
	if data == elf.ELFDATA2MSB {
		low, high = 1, 0
	}
	b[16+low], b[18+low], b[18+high] = 3, byte(machine), byte(machine>>8)
	return b
}

func TestMachineOf(t *testing.T) {
	for want, b := range map[string][]byte{
		"aarch64":     head(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_AARCH64),
		"s390x":       head(elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_S390),
		"ppc64le":     head(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_PPC64),
		"loongarch64": head(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_LOONGARCH),
		"":            head(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_AVR),
	} {
		if m, ok := machineOf(b); m.name != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", want, m.name, ok)
		}
	}
	for _, b := range [][]byte{nil, []byte("#!/bin/sh\n0123456789012345"), []byte(elf.ELFMAG)} {
		if m, ok := machineOf(b); ok {
			t.Errorf("%q: %q", b, m.name)
		}
	}
}

// The format matches programs of both types and any system, and no other machine.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable() // without cgo it is static
	if err != nil {
		t.Fatal(err)
	}
	if !isStatic(self) {
		if self, err = filepath.EvalSymlinks("/bin/busybox"); err != nil || !isStatic(self) {
			t.Skip("no static program: install the package busybox-static")
		}
	}
	for _, data := range []elf.Data{elf.ELFDATA2LSB, elf.ELFDATA2MSB} {
		b := head(elf.ELFCLASS64, data, elf.EM_PPC64)
		m, _ := machineOf(b)
		if err := os.Symlink(self, filepath.Join(dir, "qemu-"+m.name+"-static")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
		f, ok := m.emulator()
		if !ok {
			t.Fatal("the emulator is not found")
		}
		matches := func(b []byte) bool {
			for i := range f.Magic {
				if (b[i]^f.Magic[i])&f.Mask[i] != 0 {
					return false
				}
			}
			return true
		}
		other := bytes.Clone(b)
		other[elf.EI_OSABI] = 3
		other[16], other[17] = other[16]&^1, other[17]&^1
		wrong := head(elf.ELFCLASS64, data, elf.EM_S390)
		if !matches(b) || !matches(other) || matches(wrong) {
			t.Errorf("%v: magic %x, mask %x", data, f.Magic, f.Mask)
		}
	}
}

func TestForeignError(t *testing.T) {
	e := &ForeignError{Exec: &sandbox.ExecError{Name: "/bin/sh", Err: unix.ENOEXEC}, Machine: "riscv64"}
	if want := `exec: "/bin/sh": exec format error: it is a program for riscv64, for which this kernel has no emulator`; e.Error() != want {
		t.Errorf("%v", e)
	}
	if !strings.Contains(e.Hint(), "install the package qemu-user-static, or run") {
		t.Error(e.Hint())
	}
	e.Emulator = "/x/qemu"
	if !strings.Contains(e.Hint(), "/x/qemu is here, but not registered") {
		t.Error(e.Hint())
	}
}
