package snapshot

import (
	"io"
	"os"
	"slices"
	"sync"

	"github.com/seed0570efb0/build/cache"
)

// Sizes of spools. What a writer is ahead of its reader is in memory first, and then in a file.
const (
	spoolBlock  = 256 << 10
	spoolMemory = 4    // blocks
	spoolFile   = 1024 // blocks
)

// A spool is a pipe whose writer may be ahead of its reader by as much as fits into the places for its blocks. It has one writer and one reader.
type spool struct {
	disk *cache.Store

	mu     sync.Mutex
	moved  sync.Cond // some of what follows has changed
	memory int       // how many blocks may still be kept in memory
	spare  [][]byte  // their memory
	fresh  int64     // how many blocks of the file may be added
	end    int64     // how many it has
	free   []int64   // those that are free again; the one that was freed last is taken first, so that the file stays small
	queue  []spooled
	ended  bool // by the writer
	err    error
	file   *os.File // without a name; nil until it is needed
}

// spooled is a block that waits to be read.
type spooled struct {
	p  []byte // nil when it is in the file
	at int64  // in blocks
	n  int
}

// newSpool returns a spool, with a file if ahead is set: without one the writer soon waits for the reader.
func newSpool(disk *cache.Store, ahead bool) *spool {
	s := &spool{disk: disk, memory: spoolMemory}
	s.moved.L = &s.mu
	if ahead {
		s.fresh = spoolFile
	}
	return s
}

// write is the writer. It waits where no place is free, and returns the error of a spool that was closed.
func (s *spool) write(p []byte) error {
	for block := range slices.Chunk(p, spoolBlock) {
		if err := s.put(block); err != nil {
			return err
		}
	}
	return nil
}

// put adds a block when there is a place for it.
func (s *spool) put(p []byte) error {
	for {
		b, err := s.place(len(p))
		if err != nil {
			return err
		}
		if b.p != nil {
			copy(b.p, p)
		} else if err := s.store(b, p); err != nil {
			s.mu.Lock()
			s.fresh = 0 // the disk is full: from now on the writer waits for the reader
			s.mu.Unlock()
			continue
		}
		s.mu.Lock()
		s.queue = append(s.queue, b)
		s.moved.Broadcast()
		s.mu.Unlock()
		return nil
	}
}

// place waits for a place for n bytes.
func (s *spool) place(n int) (spooled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.memory == 0 && len(s.free) == 0 && s.fresh == 0 {
		s.moved.Wait()
	}
	b := spooled{n: n}
	switch {
	case s.err != nil:
		return b, s.err
	case s.memory > 0:
		s.memory--
		if last := len(s.spare) - 1; last >= 0 {
			b.p, s.spare = s.spare[last][:n], s.spare[:last]
		} else {
			b.p = make([]byte, n, spoolBlock)
		}
	case len(s.free) > 0:
		b.at, s.free = s.free[len(s.free)-1], s.free[:len(s.free)-1]
	default:
		b.at = s.end
		s.fresh--
		s.end++
	}
	return b, nil
}

// store writes a block to the file, which is made when there is none.
func (s *spool) store(b spooled, p []byte) error {
	if s.file == nil {
		dir, err := s.disk.NewTempDir()
		if err != nil {
			return err
		}
		defer dir.Remove()
		if s.file, err = os.Create(dir.Join("spool")); err != nil {
			return err
		}
	}
	_, err := s.file.WriteAt(p, b.at*spoolBlock)
	return err
}

// copyTo is the reader: it ends when the writer has ended and all was written to w, or with the error of a spool that was closed.
func (s *spool) copyTo(w io.Writer) error {
	var buf []byte
	for {
		b, err := s.next()
		if err != nil || b.n == 0 {
			return err
		}
		p := b.p
		if p == nil {
			p = slices.Grow(buf, spoolBlock)[:b.n]
			buf = p[:0]
			if _, err := s.file.ReadAt(p, b.at*spoolBlock); err != nil {
				return err
			}
		}
		_, err = w.Write(p)
		s.release(b)
		if err != nil {
			return err
		}
	}
}

// next waits for a block; one of no bytes is the end.
func (s *spool) next() (spooled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.ended && s.err == nil {
		s.moved.Wait()
	}
	if s.err != nil || len(s.queue) == 0 {
		return spooled{}, s.err
	}
	b := s.queue[0]
	s.queue = s.queue[1:]
	return b, nil
}

// release gives the place of a block to another one.
func (s *spool) release(b spooled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.p != nil {
		s.spare = append(s.spare, b.p[:spoolBlock])
		s.memory++
	} else {
		s.free = append(s.free, b.at)
	}
	s.moved.Broadcast()
}

// endWriting is for the writer: nothing follows.
func (s *spool) endWriting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.moved.Broadcast()
}

// close ends both sides with err, unless they were ended.
func (s *spool) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.moved.Broadcast()
}

// remove gives back what the spool took, when neither side uses it any more.
func (s *spool) remove() {
	if s.file != nil {
		s.file.Close()
	}
}
