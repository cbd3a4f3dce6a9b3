package snapshot

import (
	"sync"

	"golang.org/x/sys/unix"
)

// bufferSize is enough for a chunk, and for a chunk that grows by compression.
const bufferSize = chunkMax + 64<<10

// A bufferPool holds buffers that are not in use. They lie outside of the heap, which the collector lets grow to twice of what is in it, and
// where a buffer was never written to it takes no memory.
type bufferPool struct {
	mu   sync.Mutex
	free [][]byte
}

// Chunks have other buffers before and after compression: the latter stay small.
var raws, packs bufferPool

// get returns an empty buffer of bufferSize bytes.
func (p *bufferPool) get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	b, err := unix.Mmap(-1, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		b = make([]byte, bufferSize)
	}
	return b[:0]
}

// put takes a buffer back. Another slice is left to the collector.
func (p *bufferPool) put(b []byte) {
	if cap(b) != bufferSize {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b[:0])
}
