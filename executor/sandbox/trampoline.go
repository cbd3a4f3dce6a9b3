package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// The child executes its command in two leaps, by way of a program of some hundred bytes, the trampoline.
//
// A hostile image can make /proc/self/exe the command, or the interpreter of it. Executed by the child
// itself, that would be this program, which the sandbox could then open for writing through
// /proc/1/exe, and so replace on the host (CVE-2019-5736). From the trampoline it is the trampoline, which ends with status 126
// when it is executed again.
//
// It also does what cannot be done before: until the first exec, signals stay blocked, because a handler would
// run in the memory that the child shares with us.

// reportFD is the descriptor to which the trampoline writes the number of an error, and which its exec closes.
const reportFD = 3

// trampolineCode is what vfork_*.s has for it, and whatever comes after that, which is never reached.
var trampolineCode *[256]byte

// trampoline returns a descriptor of the program, to execute. Nobody can change it.
var trampoline = sync.OnceValues(func() (int, error) {
	return programFile(bytes.NewReader(trampolineBytes()))
})

// programFile returns a descriptor above reportFD of a file with that content, to execute. Nobody can change it.
func programFile(content io.Reader) (int, error) {
	fd, err := sealedFile(content)
	if errors.Is(err, unix.EACCES) { // vm.memfd_noexec is 2, and nothing is read yet
		fd, err = readOnlyFile(content)
	}
	if err != nil {
		return -1, fmt.Errorf("a file to execute: %w", err)
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, reportFD+1)
}

// sealedFile returns a descriptor of an executable file in memory.
func sealedFile(content io.Reader) (int, error) {
	fd, err := unix.MemfdCreate("exec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is new in Linux 6.3
		fd, err = unix.MemfdCreate("exec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "exec")
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return -1, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, fmt.Errorf("seal: %w", err)
	}
	// A file that is open for writing cannot be executed.
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_PATH|unix.O_CLOEXEC, 0)
}

// readOnlyFile returns a descriptor of an executable file that is reached through a read-only mount alone.
func readOnlyFile(content io.Reader) (int, error) {
	f, err := os.CreateTemp("", "exec")
	if err != nil {
		return -1, err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(0o555), f.Close()); err != nil {
		return -1, err
	}
	return copyMounts(unix.AT_FDCWD, f.Name(), unix.MOUNT_ATTR_RDONLY)
}

// trampolineBytes returns the program as an ELF file: headers, of which the second segment's asks for a stack without code, and
// the code.
func trampolineBytes() []byte {
	const base = 0x400000
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phnum: 2,
	}
	segments := [2]elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Align: 1 << 16},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	head.Phoff, head.Ehsize = uint64(binary.Size(head)), uint16(binary.Size(head))
	head.Phentsize = uint16(binary.Size(segments[0]))
	start := head.Phoff + uint64(binary.Size(segments))
	head.Entry = base + start
	segments[0].Filesz = start + uint64(len(trampolineCode))
	segments[0].Memsz = segments[0].Filesz

	var b bytes.Buffer // of which no Write fails
	binary.Write(&b, binary.LittleEndian, head)
	binary.Write(&b, binary.LittleEndian, segments)
	b.Write(trampolineCode[:])
	return b.Bytes()
}
