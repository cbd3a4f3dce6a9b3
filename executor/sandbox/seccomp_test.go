package sandbox_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/executor/sandbox/seccomp"
	"golang.org/x/sys/unix"
)

// elf64 returns a program for amd64 that makes a system call and exits with its error, 0 for none.
func elf64(number uint32, args ...uint32) []byte {
	var code []byte
	move := func(opcode []byte, v uint32) { code = binary.LittleEndian.AppendUint32(append(code, opcode...), v) }
	registers := [][]byte{{0xbf}, {0xbe}, {0xba}, {0x41, 0xba}, {0x41, 0xb8}, {0x41, 0xb9}} // edi esi edx r10d r8d r9d
	for i, a := range args {
		move(registers[i], a)
	}
	move([]byte{0xb8}, number)
	code = append(code, 0x0f, 0x05) // syscall
	code = append(code, exitWithError...)
	code = append(code, 0x89, 0xc7) // mov edi, eax
	move([]byte{0xb8}, unix.SYS_EXIT_GROUP)
	return wrap64(append(code, 0x0f, 0x05))
}

// wrap64 returns the executable file of code.
func wrap64(code []byte) []byte {
	le := binary.LittleEndian
	const headers, base = 64 + 56, 0x400000
	h := slices.Concat([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9))
	h = le.AppendUint16(h, 2)  // executable
	h = le.AppendUint16(h, 62) // x86-64
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, base+headers)
	h = le.AppendUint64(h, 64)
	h = append(h, make([]byte, 8+4)...)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	h = le.AppendUint32(h, 1) // load
	h = le.AppendUint32(h, 5) // to read and execute
	size := uint64(headers + len(code))
	for _, v := range []uint64{0, base, base, size, size, 4096} {
		h = le.AppendUint64(h, v)
	}
	return append(h, code...)
}

// elf32 is elf64 for i386.
func elf32(number uint32, args ...uint32) []byte {
	le := binary.LittleEndian
	var code []byte
	for i, a := range args {
		code = le.AppendUint32(append(code, []byte{0xbb, 0xb9, 0xba, 0xbe, 0xbf}[i]), a) // ebx ecx edx esi edi
	}
	code = le.AppendUint32(append(code, 0xb8), number)
	code = append(code, 0xcd, 0x80) // int 0x80
	code = append(code, exitWithError...)
	code = append(code, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80) // mov ebx, eax; exit

	const headers, base = 52 + 32, 0x400000
	h := slices.Concat([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9))
	h = le.AppendUint16(h, 2)
	h = le.AppendUint16(h, 3) // i386
	for _, v := range []uint32{1, base + headers, 52, 0, 0} {
		h = le.AppendUint32(h, v)
	}
	for _, v := range []uint16{52, 32, 1, 0, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	size := uint32(headers + len(code))
	for _, v := range []uint32{1, 0, base, base, size, size, 5, 4096} {
		h = le.AppendUint32(h, v)
	}
	return append(h, code...)
}

// exitWithError is: neg eax; cmp eax, 4095; jbe +2; xor eax, eax.
var exitWithError = []byte{0xf7, 0xd8, 0x3d, 0xff, 0x0f, 0, 0, 0x76, 0x02, 0x31, 0xc0}

// callSpec returns the plan of a sandbox that runs program.
func callSpec(t testing.TB, program []byte) sandbox.Spec {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the programs are for amd64")
	}
	spec := newSpec(t, "/call")
	if err := os.WriteFile(filepath.Join(spec.Root.Lower[0], "call"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return spec
}

// errno returns the error that the system call of a program ends with.
func errno(t testing.TB, spec sandbox.Spec) unix.Errno {
	t.Helper()
	_, stderr, status, err := try(spec)
	if err != nil || status.Signal != 0 {
		t.Fatalf("%+v, %v, %s", status, err, stderr)
	}
	return unix.Errno(status.Code)
}

func TestSystemCalls(t *testing.T) {
	const none = unix.Errno(0)
	for name, c := range map[string]struct {
		program []byte
		want    unix.Errno
	}{
		"getpid":                  {elf64(unix.SYS_GETPID), none},
		"mount":                   {elf64(unix.SYS_MOUNT, 0, 0, 0, 0, 0), unix.EPERM},
		"unshare(CLONE_NEWUSER)":  {elf64(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), unix.EPERM},
		"clone(CLONE_NEWUSER)":    {elf64(unix.SYS_CLONE, unix.CLONE_NEWUSER), unix.EPERM},
		"clone3":                  {elf64(unix.SYS_CLONE3), unix.ENOSYS},
		"keyctl":                  {elf64(unix.SYS_KEYCTL, 0, 0), unix.EPERM},
		"add_key":                 {elf64(unix.SYS_ADD_KEY), unix.EPERM},
		"bpf":                     {elf64(unix.SYS_BPF), unix.EPERM},
		"perf_event_open":         {elf64(unix.SYS_PERF_EVENT_OPEN), unix.EPERM},
		"userfaultfd":             {elf64(unix.SYS_USERFAULTFD), unix.EPERM},
		"io_uring_setup":          {elf64(unix.SYS_IO_URING_SETUP, 1, 0), unix.EPERM},
		"ptrace(TRACEME)":         {elf64(unix.SYS_PTRACE, unix.PTRACE_TRACEME), none},
		"personality(READ_IMPLI)": {elf64(unix.SYS_PERSONALITY, 0x0400000), unix.EPERM},
		"personality(query)":      {elf64(unix.SYS_PERSONALITY, 0), none},
		"socket(AF_UNIX)":         {elf64(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0), none},
		"socket(AF_VSOCK)":        {elf64(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0), unix.EPERM},
		"socket(AF_ALG)":          {elf64(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0), unix.EPERM},
		"number of the future":    {elf64(1000), unix.ENOSYS},
		"x32 getpid":              {elf64(unix.SYS_GETPID | 1<<30), unix.ENOSYS},
		"fsync of nothing":        {elf64(unix.SYS_FSYNC, 99), unix.EBADF},
	} {
		t.Run(name, func(t *testing.T) {
			if got := errno(t, callSpec(t, c.program)); got != c.want {
				t.Errorf("got %d (%v), want %d (%v)", got, got, c.want, c.want)
			}
		})
	}
}

// Programs of 32 bits are filtered by their own numbers.
func TestSystemCallsOfI386(t *testing.T) {
	const getpid, mount, unshare, clone3 = 20, 21, 310, 435
	if _, _, status, err := try(callSpec(t, elf32(getpid))); err != nil || status.Code != 0 {
		t.Skipf("this kernel runs no programs for i386: %+v, %v", status, err)
	}
	for number, want := range map[uint32]unix.Errno{mount: unix.EPERM, unshare: unix.EPERM, clone3: unix.ENOSYS} {
		if got := errno(t, callSpec(t, elf32(number, unix.CLONE_NEWUSER))); got != want {
			t.Errorf("call %d: got %v, want %v", number, got, want)
		}
	}
}

func TestUnconfined(t *testing.T) {
	spec := callSpec(t, elf64(unix.SYS_UNSHARE, unix.CLONE_FS))
	spec.Seccomp = seccomp.Unconfined
	if got := errno(t, spec); got != 0 {
		t.Errorf("got %v", got)
	}
	spec = callSpec(t, elf64(unix.SYS_UNSHARE, unix.CLONE_FS))
	if got := errno(t, spec); got != unix.EPERM {
		t.Errorf("with the default profile: got %v", got)
	}
}

// More capabilities allow more calls.
func TestSystemCallsOfTheCapable(t *testing.T) {
	spec := callSpec(t, elf64(unix.SYS_UNSHARE, unix.CLONE_NEWUTS))
	spec.Caps = append(spec.Caps, "CAP_SYS_ADMIN")
	if got := errno(t, spec); got != 0 {
		t.Errorf("got %v", got)
	}
}

func TestNoSync(t *testing.T) {
	spec := callSpec(t, elf64(unix.SYS_FSYNC, 99))
	spec.NoSync = true
	if got := errno(t, spec); got != 0 {
		t.Errorf("fsync went to the kernel: %v", got)
	}
}

func TestUnknownProfile(t *testing.T) {
	spec := newSpec(t, "true")
	spec.Seccomp = "strict"
	if _, _, _, err := try(spec); err == nil || !strings.Contains(err.Error(), `"strict"`) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkSystemCall makes a million calls of getpid in a sandbox, with a filter and without.
func BenchmarkSystemCall(b *testing.B) {
	const calls = 1_000_000
	loop := []byte{0xbb}
	loop = binary.LittleEndian.AppendUint32(loop, calls)
	loop = append(loop, 0xb8, unix.SYS_GETPID, 0, 0, 0, 0x0f, 0x05, 0xff, 0xcb, 0x75, 0xf5) // L: getpid; dec ebx; jnz L
	loop = append(loop, 0x31, 0xff, 0xb8, unix.SYS_EXIT_GROUP, 0, 0, 0, 0x0f, 0x05)
	for _, profile := range []seccomp.Profile{seccomp.Default, seccomp.Unconfined} {
		b.Run(string(profile), func(b *testing.B) {
			spec := callSpec(b, wrap64(loop))
			spec.Seccomp = profile
			benchmarkCalls(b, spec, calls)
		})
	}
}

// freshUpper gives spec an upper directory that nobody has used.
func freshUpper(b *testing.B, spec *sandbox.Spec, dir string, n int) {
	spec.Root.Upper = filepath.Join(dir, "upper"+strconv.Itoa(n))
	spec.Root.Work = filepath.Join(dir, "work"+strconv.Itoa(n))
	for _, d := range []string{spec.Root.Upper, spec.Root.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkCalls measures how long each of the system calls takes that spec makes.
func benchmarkCalls(b *testing.B, spec sandbox.Spec, calls float64) {
	dir := b.TempDir()
	for n := 0; b.Loop(); n++ {
		freshUpper(b, &spec, dir, n)
		if status, err := sandbox.Run(b.Context(), spec, sandbox.Stdio{}); err != nil || status.Code != 0 {
			b.Fatal(status, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
}
