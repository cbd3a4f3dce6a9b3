package executor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// defaultAgent is the ID of an agent that none is named by.
const defaultAgent = "default"

// agent provides the socket of an SSH agent.
func (c *container) agent(m *llb.Mount) error {
	id := m.ID
	if id == "" {
		id = defaultAgent
	}
	serve, ok := c.x.Agents[id]
	if !ok {
		if m.Required {
			return fmt.Errorf("no SSH key %q forwarded from the client", m.ID)
		}
		return nil
	}
	c.folders++
	name := fmt.Sprintf("agent-%d", c.folders)
	l, err := listen(c.tmp.Path, name)
	if err != nil {
		return err
	}
	c.held = append(c.held, forward(l, serve))
	socket := c.tmp.Join(name)
	// A socket can carry no mark, and with one id every process may use it as its owner does.
	if !owners.OneID() {
		if err := os.Lchown(socket, m.Access.UID, m.Access.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(socket, os.FileMode(m.Access.Mode&0o777)); err != nil {
		return err
	}
	return c.mount(sandbox.Mount{Type: sandbox.MountBind, Source: socket, Target: m.Target}, snapshot.Regular)
}

// ServeAgent makes a socket in dir whose connections are served until end.
func ServeAgent(dir string, serve func(net.Conn)) (socket string, end func(), err error) {
	const name = "agent"
	l, err := listen(dir, name)
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, name), forward(l, serve), nil
}

// listen makes a socket in dir, whose path may be longer than the address of a socket.
func listen(dir, name string) (*net.UnixListener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name is only good while fd is open; the folder goes as a whole
	return l, nil
}

// forward serves the connections that l gets, and returns the function that ends all of it.
func forward(l *net.UnixListener, serve func(net.Conn)) (end func()) {
	var mu sync.Mutex
	var running sync.WaitGroup
	open := map[net.Conn]bool{}
	accept := func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				serve(conn)
				conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	}
	accepting := make(chan struct{})
	go func() { accept(); close(accepting) }()
	return func() {
		l.Close()
		<-accepting
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	}
}
