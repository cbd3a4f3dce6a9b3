package sandbox

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ownPipes gives those of the streams that are unnamed pipes to the user of the plan, so
// that /dev/stderr can be opened. Everything else among them may be the caller's file or terminal.
func (s *Spec) ownPipes(streams [3]int) {
	const pipeFS = 0x50495045
	for _, fd := range streams {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == pipeFS {
			unix.Fchown(fd, int(s.UID), int(s.GID)) // where ids are not mapped, nobody needs it
		}
	}
}

// setGroupsDenied reports whether this user namespace was made without the right to call setgroups.
var setGroupsDenied = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && string(b) == "deny\n"
})
