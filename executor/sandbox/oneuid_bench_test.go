package sandbox_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"golang.org/x/sys/unix"
)

// callsVariable says how many calls ownerCalls make.
const callsVariable = "CALLS"

// ownerCalls are calls that a supervisor is asked about, many of them.
var ownerCalls = map[string]func() error{
	"new opens": newOpens, // one of each
	"stat":      manyCalls(func(int) error { return unix.Lstat("/etc/passwd", new(unix.Stat_t)) }),
	"missing":   manyCalls(func(int) error { unix.Lstat("/etc/none", new(unix.Stat_t)); return nil }),
	"fstat":     manyCalls(func(int) error { return unix.Fstat(0, new(unix.Stat_t)) }),
	"marked": manyCalls(func(n int) error {
		if n == 0 {
			if err := unix.Chown("/etc/old", 5, 6); err != nil {
				return err
			}
		}
		return unix.Lstat("/etc/old", new(unix.Stat_t))
	}),
	"chown to root": manyCalls(func(int) error { return unix.Fchown(0, 0, 0) }),
	"chown":         manyCalls(func(n int) error { return unix.Chown("/etc/old", 1+n%2, 0) }),
	"geteuid":       manyCalls(func(int) error { os.Geteuid(); return nil }),
}

func manyCalls(call func(n int) error) func() error {
	return func() error {
		count, err := strconv.Atoi(os.Getenv(callsVariable))
		if err != nil {
			return err
		}
		// Standard input becomes a file of the root's.
		fd, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if err := unix.Dup3(fd, 0, 0); err != nil {
			return err
		}
		for n := range count {
			if err := call(n); err != nil {
				return err
			}
		}
		return nil
	}
}

// BenchmarkStat tells what the emulation of owners adds to stat.
func BenchmarkStat(b *testing.B) { benchmarkOwners(b, "stat", "missing", "fstat", "marked") }

// BenchmarkChown is BenchmarkStat for changes of owners, and for the question who a process is.
func BenchmarkChown(b *testing.B) { benchmarkOwners(b, "chown to root", "chown", "geteuid") }

func benchmarkOwners(b *testing.B, names ...string) {
	for _, name := range names {
		for _, one := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/emulated=%t", name, one), func(b *testing.B) {
				spec := oneUID(b, "")
				if spec.OneUID && !one && name != "stat" && name != "missing" && name != "fstat" {
					b.Skip("the kernel knows no other users here")
				}
				spec = attackSpec(b, spec, "calls/"+name)
				spec.OneUID = one
				spec.Args = []string{"/attack"}
				spec.Env = append(spec.Env, callsVariable+"="+strconv.Itoa(b.N))
				var runner sandbox.Runner
				defer runner.Close()
				b.ResetTimer() // the start, a few milliseconds, is soon nothing among many calls
				if status, err := runner.Run(b.Context(), spec, sandbox.Stdio{Err: os.Stderr}); err != nil || status.Code != 0 {
					b.Fatal(status, err)
				}
			})
		}
	}
}
