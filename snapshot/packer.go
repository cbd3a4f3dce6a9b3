package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// A Packer compresses layers of images that will be written when their build is done, while the build goes on. What it has not
// done by then is not missing: Compressed does it.
type Packer struct {
	store  *Store
	forms  []Compression
	ctx    context.Context // of the build: the work outlives the calls that begin it
	cancel context.CancelFunc
	places chan struct{} // one for each layer that is being compressed
	work   sync.WaitGroup

	mu    sync.Mutex
	seen  map[digest.Digest]bool // chains that were given to Pack
	begun map[form]bool
	err   error // the first one
}

// A form of a layer.
type form struct {
	layer digest.Digest
	as    Compression
}

// packers is how many layers are compressed at once. Compression is parallel in itself; what this hides is the reading, and the
// layers that are too small to be split.
const packers = 4

// NewPacker returns a Packer that gives layers the given forms, at least one. Its work ends with ctx. It must be closed.
func (s *Store) NewPacker(ctx context.Context, forms ...Compression) *Packer {
	p := &Packer{store: s, forms: forms, places: make(chan struct{}, packers), seen: map[digest.Digest]bool{}, begun: map[form]bool{}}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// Pack begins to compress the layers of a chain that are not compressed, and does not wait for it.
func (p *Packer) Pack(id digest.Digest) {
	for !id.IsZero() {
		p.mu.Lock()
		seen := p.seen[id] // and all below it
		p.seen[id] = true
		p.mu.Unlock()
		if seen {
			return
		}
		c, err := p.store.Chain(id)
		if err != nil {
			p.note(err)
			return
		}
		for _, as := range p.forms {
			if p.begin(c.Layer, as) {
				p.work.Go(func() { p.note(p.pack(c, as)) })
			}
		}
		id = c.Parent
	}
}

// begin reports whether a form of a layer is to be made: whoever asks first makes it.
func (p *Packer) begin(layer digest.Digest, as Compression) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := form{layer, as}
	begun := p.begun[f]
	p.begun[f] = true
	return !begun
}

func (p *Packer) pack(c *Chain, as Compression) error {
	select {
	case p.places <- struct{}{}:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	defer func() { <-p.places }()
	_, err := p.store.Compressed(p.ctx, c, as)
	return err
}

// note keeps the first error, or the first that tells of damage: doing the work again mends that. It stops nothing: what the steps of a
// build give is kept for the next one.
func (p *Packer) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil || isDamage(err) && !isDamage(p.err) {
		p.err = err
	}
}

func isDamage(err error) bool {
	var damaged *cache.DamagedError
	return errors.As(err, &damaged)
}

// Wait waits until all that was begun is done, and returns the first error that there was.
func (p *Packer) Wait() error {
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends what is under way, and waits for its end.
func (p *Packer) Close() {
	p.cancel()
	p.work.Wait()
}

// Explain closes p and returns why a build has failed with err: what was found damaged here was removed, maybe from under a step,
// which then fails with whatever it misses.
func (p *Packer) Explain(err error) error {
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if isDamage(p.err) && !isDamage(err) {
		return p.err
	}
	return err
}

// A tap takes the tar of one layer while that is made, and compresses it: nothing is read twice. A nil tap does nothing.
type tap struct {
	p     *Packer
	as    Compression
	pipe  *spool
	layer digest.Digest // zero when it was not made
	ended chan struct{} // when no more is written, and layer is set
}

// tap returns a tap for the layer that is about to be made, whose tar is kept or not. It is nil when compression is not asked for, or
// better left to Pack: when enough layers are being compressed already, and when others wait for one that can be read again as it was written.
func (m *Making) tap(kept bool) *tap {
	p := m.Packer
	if p == nil || kept && (m.Awaited || p.forms[0].MediaType == MediaTypeTar) {
		return nil
	}
	select {
	case p.places <- struct{}{}:
	default:
		return nil
	}
	t := &tap{p: p, as: p.forms[0], pipe: newSpool(p.store.disk, m.Awaited), ended: make(chan struct{})}
	p.work.Go(func() {
		defer func() { <-p.places }()
		if err := t.run(); err != nil && !t.layer.IsZero() { // without a layer, who makes it tells why
			p.note(fmt.Errorf("layer %s: %w", t.layer, err))
		}
	})
	return t
}

var errNotMade = errors.New("it was not made")

// run compresses until the end.
func (t *tap) run() error {
	defer t.pipe.remove()
	stop := context.AfterFunc(t.p.ctx, func() { t.pipe.close(context.Cause(t.p.ctx)) })
	defer stop()
	x, err := t.p.store.press(t.as, t.pipe.copyTo)
	if err != nil {
		t.pipe.close(err) // the layer is made without it
		<-t.ended
		return err
	}
	defer x.blob.Abort()
	if <-t.ended; t.layer.IsZero() {
		return errNotMade
	}
	_, err = x.keep(t.p.ctx, t.layer)
	return err
}

// over returns what writes to w and to the tap.
func (t *tap) over(w io.Writer) io.Writer {
	if t == nil {
		return w
	}
	return io.MultiWriter(w, t)
}

// Write implements io.Writer. It takes all: an error of compression is none of the layer's.
func (t *tap) Write(p []byte) (int, error) {
	_ = t.pipe.write(p)
	return len(p), nil
}

// name says which layer it is, when all of it was written and the layer is kept.
func (t *tap) name(layer digest.Digest) {
	if t == nil {
		return
	}
	t.layer = layer
	t.p.begin(layer, t.as)
}

// end ends the writing. Without a name nothing is kept.
func (t *tap) end() {
	if t == nil {
		return
	}
	if t.layer.IsZero() {
		t.pipe.close(errNotMade)
	}
	t.pipe.endWriting()
	close(t.ended)
}
