package sandbox

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Format is how the kernel knows programs that an interpreter runs: their first bytes, of which those count that the mask
// has bits for.
type Format struct {
	Name        string
	Magic, Mask []byte
	// Interpreter is a path of the host. It is opened now, so that it need not be in the roots of sandboxes.
	Interpreter string
	// KeepName hands the name that a program was called by on to the interpreter, which must know of it.
	KeepName bool
}

// binfmt is the register of this user namespace. It lasts as long as somebody has it open.
var binfmt struct {
	sync.Mutex
	mount int
}

// Register makes the kernel run programs of a format, for all processes of this user namespace. In that of the host it
// would be for the whole host, and stay: that is for the host's administrator to do. It takes Linux 6.7.
func Register(f Format) error {
	binfmt.Lock()
	defer binfmt.Unlock()
	if binfmt.mount == 0 {
		fs, err := openFS("binfmt_misc")
		if err != nil {
			return fmt.Errorf("binfmt_misc: %w", err)
		}
		defer unix.Close(fs)
		if binfmt.mount, err = createFS(fs, 0); err != nil {
			binfmt.mount = 0
			return fmt.Errorf("binfmt_misc: %w", err)
		}
	}
	fd, err := unix.Openat(binfmt.mount, "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("binfmt_misc: %w", err)
	}
	defer unix.Close(fd)
	flags := "F"
	if f.KeepName {
		flags = "PF"
	}
	line := strings.Join([]string{"", f.Name, "M", "", escaped(f.Magic), escaped(f.Mask), f.Interpreter, flags}, ":")
	if _, err := unix.Write(fd, []byte(line)); err != nil && err != unix.EEXIST {
		return fmt.Errorf("binfmt_misc: %s: %w", f.Interpreter, err)
	}
	return nil
}

func escaped(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		fmt.Fprintf(&out, `\x%02x`, c)
	}
	return out.String()
}
