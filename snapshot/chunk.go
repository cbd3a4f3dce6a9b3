package snapshot

// Sizes of chunks, in bytes. Small ones cost compression, since each starts with nothing to refer to; of large ones more has to be
// compressed again for one changed byte.
const (
	chunkMin = 256 << 10
	chunkMax = 2 << 20
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

// cut returns the length of the chunk that p begins with. p holds at least chunkMax bytes, or all up to the end. Where
// chunks end depends on the bytes before alone, so a change moves the ends near it, and no others.
func cut(p []byte) int {
	n := min(len(p), chunkMax)
	if n <= chunkMin {
		return n
	}
	const shift = 64 - chunkBits
	var h uint64
	for i, b := range p[chunkMin-gearWindow : n] {
		if h = h<<1 + gear[b]; h>>shift == 0 && i >= gearWindow {
			return chunkMin - gearWindow + i + 1
		}
	}
	return n
}
