package cache

import (
	"os"
	"strings"
	"sync"
)

// Boot names the time since this machine was started. Nothing that was written in it is lost: what has not reached the
// disk yet is in memory. Of what was written in another one and never forced to the disk, a power cut may have left any
// part. It is "" where the kernel does not tell; then nothing is known to be written in this boot.
var Boot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
})
