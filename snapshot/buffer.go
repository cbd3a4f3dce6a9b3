package snapshot

import (
	"sync"

	"golang.org/x/sys/unix"
)

// bufferSize is enough for a chunk, and for a chunk that grows by compression.
const bufferSize = chunkMax + 64<<10

// buffers are those that are not in use. They lie outside of the heap, which the collector lets grow to twice of what is in it; what was never
// written to takes no memory.
var buffers struct {
	mu   sync.Mutex
	free [][]byte
}

// getBuffer returns an empty buffer of bufferSize bytes.
func getBuffer() []byte {
	buffers.mu.Lock()
	defer buffers.mu.Unlock()
	if n := len(buffers.free); n > 0 {
		b := buffers.free[n-1]
		buffers.free = buffers.free[:n-1]
		return b
	}
	b, err := unix.Mmap(-1, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		b = make([]byte, bufferSize)
	}
	return b[:0]
}

// putBuffer takes a buffer back. Another slice is left to the collector.
func putBuffer(b []byte) {
	if cap(b) != bufferSize {
		return
	}
	buffers.mu.Lock()
	defer buffers.mu.Unlock()
	buffers.free = append(buffers.free, b[:0])
}
