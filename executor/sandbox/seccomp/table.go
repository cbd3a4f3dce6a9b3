package seccomp

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// A table holds the numbers of an architecture's system calls, by name.
type table map[string]uint32

//go:embed syscalls.tbl
var syscalls string

// tables returns the system calls of the kernel's own architecture, and of the 32-bit one that it runs as well.
// Only a process that makes a filter, or answers calls, reads them.
var tables = sync.OnceValues(func() (native, compat table) {
	t := columns(nativeColumn, compatColumn)
	return t[0], t[1]
})

// columns reads some columns of numbers. A line that does not look like the others is a mistake in this program.
func columns(which ...int) []table {
	tables := make([]table, len(which))
	for i := range tables {
		tables[i] = make(table, 512)
	}
	for line := range strings.Lines(syscalls) {
		fields := strings.Fields(line)
		if fields[0] == "#" {
			continue
		}
		for i, c := range which {
			if fields[c] == "-" {
				continue
			}
			n, err := strconv.ParseUint(fields[c], 0, 32)
			if err != nil {
				panic(fmt.Sprintf("syscalls.tbl: %s: %v", fields[0], err))
			}
			tables[i][fields[0]] = uint32(n)
		}
	}
	return tables
}

// Number returns the number of a system call of the kernel's own architecture, and whether it has one.
func Number(name string) (uint32, bool) {
	native, _ := tables()
	n, ok := native[name]
	return n, ok
}
