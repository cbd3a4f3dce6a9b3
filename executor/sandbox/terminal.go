package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Window is the size of a terminal, in characters; zeros are a size that is not known.
type Window struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

func (w Window) winsize() *unix.Winsize { return &unix.Winsize{Row: w.Rows, Col: w.Cols} }

// A terminal is that of a sandbox with Spec.Terminal. Nothing of the caller's own is within reach of the process: who holds a
// terminal can read its keys, and may type on it.
type terminal struct {
	master *os.File
	// slave is the end that the process uses. While we have it too, the master does not fail when no process has the terminal
	// open, and what was written stays readable.
	slave *os.File
	shown chan struct{} // closed when all output is
}

// ptmxFlags are those for ptmx(4), which opens a new terminal.
const ptmxFlags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC

// hostTerminal opens a terminal of the host's for s, which is a chroot and has none of its own.
func (s *Spec) hostTerminal() (*terminal, error) {
	const name = "/dev/ptmx"
	master, err := unix.Open(name, ptmxFlags, 0)
	if err != nil {
		return nil, fmt.Errorf("terminal: %s: %w", name, err)
	}
	return s.terminalOf(master)
}

// openTerminal opens a terminal out of the sandbox's own devpts, and puts it on /dev/console, where some programs write to.
func (t tree) openTerminal(s *Spec) (*terminal, error) {
	const name = "/dev/pts/ptmx"
	master, err := unix.Openat2(int(t), name, &unix.OpenHow{Flags: ptmxFlags, Resolve: strict})
	if err != nil {
		return nil, fmt.Errorf("terminal: %s: %w", name, err)
	}
	term, err := s.terminalOf(master)
	if err != nil {
		return nil, err
	}
	if err := t.console(master); err != nil {
		term.close()
		return nil, fmt.Errorf("/dev/console: %w", err)
	}
	return term, nil
}

// terminalOf returns the terminal that has that master, which it owns from now on.
func (s *Spec) terminalOf(master int) (*terminal, error) {
	slave, err := s.peer(master)
	if err != nil {
		unix.Close(master)
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return &terminal{master: os.NewFile(uintptr(master), "master"), slave: os.NewFile(uintptr(slave), "slave")}, nil
}

// peer opens the end of a terminal that the process uses.
func (s *Spec) peer(master int) (slave int, err error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fmt.Errorf("unlock: %w", err)
	}
	// By number and not by name: the name may lead to another devpts.
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return -1, errno
	}
	if err := unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, s.Terminal.winsize()); err != nil {
		unix.Close(int(fd))
		return -1, fmt.Errorf("size: %w", err)
	}
	unix.Fchown(int(fd), int(s.UID), -1) // where ids are not mapped, nobody needs it
	return int(fd), nil
}

// console puts the terminal that has that master on /dev/console.
func (t tree) console(master int) error {
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	const name = "dev/console"
	if err := unix.Mknodat(int(t), name, unix.S_IFREG|0o600, 0); err != nil {
		return err
	}
	mnt, err := copyMounts(int(t), fmt.Sprintf("dev/pts/%d", n), 0)
	if err != nil {
		return err
	}
	return t.cover(name, mnt)
}

// carry begins to copy from and to the terminal. The end of the sandbox does not wait for in, whose Read nobody can
// interrupt.
func (t *terminal) carry(in io.Reader, out io.Writer) {
	t.shown = make(chan struct{})
	go func() {
		defer close(t.shown)
		if out != nil {
			io.Copy(out, t.master) // ends with EIO
		}
		io.Copy(io.Discard, t.master) // nobody looks, and the process must not wait for that
	}()
	if in != nil {
		go io.Copy(t.master, in)
	}
}

// close waits until all output of the sandbox, which has ended, is copied.
func (t *terminal) close() {
	t.slave.Close() // the last one: what is left can be read, and then the master fails
	if t.shown != nil {
		<-t.shown
	}
	t.master.Close()
}

// Resize changes the size of the process' terminal, and tells the process.
func (p *Process) Resize(size Window) error {
	if p.terminal == nil {
		return errors.New("sandbox: the process has no terminal")
	}
	conn, err := p.terminal.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size.winsize()) })
	return errors.Join(err, failed)
}
