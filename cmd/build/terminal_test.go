package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// onTerminal is a helper of the scripts: "on-terminal FILE build ..." runs the command on a terminal of 24 lines and 80
// columns, and does what the lines of the file say:
//
//	see TEXT        wait for the text on the screen
//	type "TEXT"     press keys, as a Go string
//	resize ROWS COLS
//	raw             check that keys come through as they are
//	end STATUS      wait for the end, and check that the terminal is as it was
func onTerminal() {
	steps, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = runOnTerminal(string(steps), exec.Command(os.Args[2], os.Args[3:]...))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type testTerminal struct {
	master, slave *os.File
	cmd           *exec.Cmd
	before        unix.Termios
	seen          string // and not looked for yet
}

func runOnTerminal(steps string, cmd *exec.Cmd) error {
	t := &testTerminal{cmd: cmd}
	var err error
	if t.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(int(t.master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(t.master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return err
	}
	if t.slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		return err
	}
	now, err := unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.before = *now
	if err := t.resize("24 80"); err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	for line := range strings.Lines(steps) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := t.step(verb, rest); err != nil {
			cmd.Process.Signal(syscall.SIGTERM)
			return fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

func (t *testTerminal) step(verb, arg string) error {
	switch verb {
	case "":
		return nil
	case "see":
		return t.see(arg)
	case "type":
		keys, err := strconv.Unquote(arg)
		if err == nil {
			_, err = t.master.WriteString(keys)
		}
		return err
	case "resize":
		return t.resize(arg)
	case "raw":
		now, err := unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS)
		if err == nil && now.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != 0 {
			err = errors.New("the terminal is not")
		}
		return err
	case "end":
		return t.end(arg)
	}
	return errors.New("no such step")
}

func (t *testTerminal) see(text string) error {
	b := make([]byte, 4096)
	for !strings.Contains(t.seen, text) {
		n, err := t.master.Read(b)
		t.seen += string(b[:n])
		if err != nil {
			return fmt.Errorf("%w after %q", err, t.seen)
		}
	}
	_, t.seen, _ = strings.Cut(t.seen, text)
	return nil
}

func (t *testTerminal) resize(arg string) error {
	var size unix.Winsize
	if _, err := fmt.Sscan(arg, &size.Row, &size.Col); err != nil {
		return err
	}
	return unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &size)
}

func (t *testTerminal) end(status string) error {
	t.cmd.Wait()
	if got := strconv.Itoa(t.cmd.ProcessState.ExitCode()); got != status {
		return fmt.Errorf("the status is %s; on the screen %q", got, t.seen)
	}
	now, err := unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS)
	if err == nil && *now != t.before {
		err = errors.New("the terminal is not as it was")
	}
	return err
}
