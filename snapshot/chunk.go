package snapshot

// Sizes of chunks, in bytes. Small ones cost compression, since each starts with nothing to refer to; of large ones more has to be
// compressed again for one changed byte, and the last one is what everybody waits for.
const (
	chunkMin = 256 << 10
	chunkMax = 1 << 20
	// chunkBits is how many bits of the hash are 0 at a cut: on average there are 1<<chunkBits bytes from chunkMin on.
	chunkBits = 19
)

// gearWindow is how many bytes before a cut decide about it: the others are shifted out of the hash.
const gearWindow = 64

// gear holds a random number for each value of a byte. Other numbers would cut at other places, and change the digests of images.
var gear = func() (table [256]uint64) {
	x := uint64(0x5eed)
	for i := range table { // the generator SplitMix64
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}()

// A cutter finds where chunks end. That depends on the bytes before alone, so a change moves the ends near it, and no others.
type cutter struct {
	seen int // of the bytes of this chunk
	hash uint64
}

// next returns the length of the chunk that p begins with, or 0 when p does not hold all of it. Then it is to be called again with what is
// p and more, up to chunkMax bytes.
func (c *cutter) next(p []byte) int {
	const shift = 64 - chunkBits
	h, end := c.hash, 0
	for i := max(c.seen, chunkMin-gearWindow); i < len(p); i++ {
		if h = h<<1 + gear[p[i]]; h>>shift == 0 && i >= chunkMin {
			end = i + 1
			break
		}
	}
	if end == 0 && len(p) == chunkMax {
		end = chunkMax
	}
	*c = cutter{seen: len(p), hash: h}
	if end > 0 {
		*c = cutter{}
	}
	return end
}
