package cache

import (
	"crypto/rand"
	"os"
	"strings"
	"sync"
)

// Boot names the time since this machine was started. Nothing that was written in it is lost: what has not reached the
// disk yet is in memory. Of what was written in another one and never forced to the disk, a power cut may have left any
// part. Where the kernel does not tell, each process takes itself for a boot of its own.
var Boot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return rand.Text()
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
})
