package sandbox

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is what a child does between its fork and its exec: a list of system calls with arguments that are ready.
// The child shares the memory of this process and runs no Go: it may not allocate, lock or wait for
// anybody. Everything that can be found out or made beforehand is not in here; see stage.
type program struct {
	calls []call
	kept  []any // what the arguments point at
}

// A call is one system call.
type call struct {
	number uintptr
	args   [6]uintptr
	from   *int32 // when set, the first argument is what an earlier call has left there
	to     *int32 // when set, takes the result
	// forgive holds errors that are no reason to stop.
	forgive [2]syscall.Errno
	// again is an error after which the call is made once more.
	again syscall.Errno
	// zero demands that the result is 0.
	zero bool
	what string // what the call does, for an error; "" executes the command
	// known is an error with a meaning that its text does not tell.
	known   syscall.Errno
	meaning string

	search *search // in place of a call
}

// add appends a system call, and returns it for more to be said about it.
func (p *program) add(what string, number uintptr, args ...uintptr) *call {
	c := call{number: number, what: what}
	copy(c.args[:], args)
	p.calls = append(p.calls, c)
	return &p.calls[len(p.calls)-1]
}

// text returns the address of s as C has it. A zero byte, which Spec.check has refused, would end it.
func (p *program) text(s string) uintptr {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return address(p, &b[0])
}

// texts returns a list of strings as execve takes it.
func (p *program) texts(list []string) []uintptr {
	addresses := make([]uintptr, len(list)+1)
	for i, s := range list {
		addresses[i] = p.text(s)
	}
	return addresses
}

// address returns the address of v, which it keeps from the garbage collector.
func address[T any](p *program, v *T) uintptr {
	p.kept = append(p.kept, v)
	return uintptr(unsafe.Pointer(v))
}

// find appends the search for the command of s, as execvp does it, with the rights of the user that the child is by then.
// The path that was found is stored in file.
func (p *program) find(s *Spec, file *uintptr) {
	var candidates []uintptr
	name := s.Args[0]
	if strings.Contains(name, "/") {
		candidates = []uintptr{p.text(name)}
	} else if path := s.getenv("PATH"); path != "" { // an empty one does not mean the working directory, as an empty element does
		for dir := range strings.SplitSeq(path, ":") {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, p.text(dir+"/"+name))
		}
	}
	p.calls = append(p.calls, call{search: &search{candidates, file}})
}

// A search takes the place of a call.
type search struct {
	candidates []uintptr // the first that can be executed is it
	file       *uintptr
}

// A failure is what has stopped a child.
type failure struct {
	call  int // the number of the call in the program
	errno syscall.Errno
}

// err returns the failure of a child of s as an error.
func (p *program) err(f failure, s *Spec) error {
	name := s.Args[0]
	switch c := p.calls[f.call]; {
	case c.meaning != "" && f.errno == c.known:
		return fmt.Errorf("%s: %s: %w", c.what, c.meaning, f.errno)
	case c.what != "":
		return fmt.Errorf("%s: %w", c.what, f.errno)
	case c.search == nil:
		return &ExecError{Name: name, Err: f.errno}
	case strings.Contains(name, "/"):
		return &ExecError{Name: name, Err: &fs.PathError{Op: "stat", Path: name, Err: f.errno}}
	case f.errno == unix.ENOENT:
		return &ExecError{Name: name, Err: errNotInPath{}}
	}
	return &ExecError{Name: name, Err: f.errno}
}
