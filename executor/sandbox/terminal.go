package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// A Window is the size of a terminal, in characters; zeros are a size that is not known.
type Window struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

func (w Window) winsize() *unix.Winsize { return &unix.Winsize{Row: w.Rows, Col: w.Cols} }

// openTerminal gives this process, which leads its session, a terminal out of the sandbox's own devpts, and sends
// both ends to the parent. Nothing of the caller's terminal is within reach: who holds a terminal can read its keys,
// and may type on it.
func (p *plan) openTerminal() error {
	if p.Terminal == nil {
		return nil
	}
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer unix.Close(master)
	slave, err := p.peer(master)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer unix.Close(slave)
	if err := console(master); err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	if err := unix.Sendmsg(p.Console, []byte{0}, unix.UnixRights(master, slave), nil, 0); err != nil {
		return fmt.Errorf("hand over the terminal: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	return controlTerminal()
}

// controlTerminal makes standard input the terminal whose keys are signals for this session.
func controlTerminal() error {
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("controlling terminal: %w", err)
	}
	return nil
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

// console puts the terminal on /dev/console, where some programs write to.
func console(master int) error {
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	const name = "/dev/console"
	if err := unix.Mknod(name, unix.S_IFREG|0o600, 0); err != nil {
		return err
	}
	mnt, err := copyMounts(unix.AT_FDCWD, fmt.Sprintf("/dev/pts/%d", n), 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// A terminal is the parent's part of Spec.Terminal.
type terminal struct {
	sockets [2]*os.File // the child sends both ends through the second one
	master  *os.File
	// slave keeps what is written readable, and master from failing, while no process has the terminal open.
	slave *os.File
	shown chan struct{} // closed when all output is
}

// newTerminal begins a terminal for spec, or returns nil if there is none.
func newTerminal(spec *Spec) (t *terminal, err error) {
	if spec.Terminal == nil {
		return nil, nil
	}
	t = &terminal{}
	if spec.Chroot { // which has no devpts
		return t, t.openHere(spec)
	}
	t.sockets, err = socketPair("terminal")
	return t, err
}

// openHere opens a terminal of this host's.
func (t *terminal) openHere(spec *Spec) error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("terminal: /dev/ptmx: %w", err)
	}
	t.master = os.NewFile(uintptr(master), "terminal")
	slave, err := spec.peer(master)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.slave = os.NewFile(uintptr(slave), "terminal")
	return nil
}

// attach gives a child what it needs for its terminal.
func (t *terminal) attach(cmd *exec.Cmd) {
	if t.slave == nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, t.sockets[1])
		return
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
}

// carry begins to copy from and to the terminal of a child that has it. The end of the sandbox does not wait for
// in, whose Read nobody can interrupt.
func (t *terminal) carry(in io.Reader, out io.Writer) error {
	if t.master == nil {
		t.sockets[1].Close()
		files, err := receiveFiles(t.sockets[0])
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		if len(files) != 2 {
			return errors.New("terminal: the child has sent none")
		}
		t.master, t.slave = files[0], files[1]
	}
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
	return nil
}

// close waits until all output of the sandbox, which has ended, is copied.
func (t *terminal) close() {
	closeAll(t.sockets[:])
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
