package sandbox

import (
	"errors"
	"io"
	"os"
	"sync"
)

// Streams are the standard streams of a process as files, and what carries to and from those that are none.
type streams struct {
	files  [3]*os.File
	opened []*os.File // those of files that are not the caller's
	in     io.Reader  // what feed copies to fed, or nil
	fed    *os.File
	copies sync.WaitGroup

	mu  sync.Mutex
	err error // of the first copy that failed
}

// open makes files of stdio.
func (s *streams) open(stdio Stdio) error {
	if err := s.input(stdio.In); err != nil {
		return err
	}
	if err := s.output(1, stdio.Out); err != nil {
		return err
	}
	if stdio.Err != nil && stdio.Err == stdio.Out { // what is written to both stays in order
		s.files[2] = s.files[1]
		return nil
	}
	return s.output(2, stdio.Err)
}

// input attaches the standard input.
func (s *streams) input(in io.Reader) error {
	switch in := in.(type) {
	case nil:
		return s.null(0, os.O_RDONLY)
	case *os.File:
		s.files[0] = in
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.files[0], s.opened = r, append(s.opened, r)
	s.in, s.fed = in, w
	return nil
}

// feed begins to copy the standard input. Nobody waits for that, since nobody can interrupt a Read; so it is for when the process
// runs: of one that is started once more, in another network, the first try would take some of the input.
func (s *streams) feed() {
	in, w := s.in, s.fed
	if in == nil {
		return
	}
	s.in, s.fed = nil, nil
	go func() {
		io.Copy(w, in) // fails with EPIPE when the process does not want it
		w.Close()
	}()
}

// output attaches the stream fd.
func (s *streams) output(fd int, out io.Writer) error {
	switch out := out.(type) {
	case nil:
		return s.null(fd, os.O_WRONLY)
	case *os.File:
		s.files[fd] = out
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.files[fd], s.opened = w, append(s.opened, w)
	s.copies.Go(func() {
		_, err := io.Copy(out, r)
		r.Close() // now the process gets SIGPIPE
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.err = errors.Join(s.err, err)
		}
	})
	return nil
}

func (s *streams) null(fd, flag int) error {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.files[fd], s.opened = f, append(s.opened, f)
	}
	return err
}

// release closes this process' copies of what the process of the sandbox has got.
func (s *streams) release() {
	closeAll(s.opened)
	s.opened = nil
}

// wait waits until all output is written, which is when all who could write are gone.
func (s *streams) wait() error {
	if s.fed != nil { // the process was never started
		s.fed.Close()
	}
	s.copies.Wait()
	return s.err
}
