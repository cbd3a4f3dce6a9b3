package sandbox_test

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// A typist is the person in front of the terminal of a process.
type typist struct {
	t       testing.TB
	process *sandbox.Process
	keys    io.WriteCloser
	screen  *bufio.Reader
}

// onTerminal starts spec with a terminal of 33 lines and 111 columns.
func onTerminal(t testing.TB, spec sandbox.Spec) *typist {
	t.Helper()
	spec.Terminal = &sandbox.Window{Rows: 33, Cols: 111}
	in, keys := io.Pipe()
	screen, out := io.Pipe()
	p, err := sandbox.Start(t.Context(), spec, sandbox.Stdio{In: in, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Wait()
		out.Close()
	}()
	t.Cleanup(func() {
		in.Close()
		screen.Close()
		p.Wait()
	})
	return &typist{t, p, keys, bufio.NewReader(screen)}
}

// sees reads lines up to one that holds text.
func (p *typist) sees(text string) {
	p.t.Helper()
	all := ""
	for {
		line, err := p.screen.ReadString('\n')
		all += line
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			p.t.Fatalf("%q never appears in %q: %v", text, all, err)
		}
	}
}

func (p *typist) types(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.keys, text); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end of the process.
func (p *typist) ends(code int) {
	p.t.Helper()
	io.Copy(io.Discard, p.screen)
	if status, err := p.process.Wait(); err != nil || status.Code != code {
		p.t.Errorf("ended with %+v, %v, want %d", status, err, code)
	}
}

// conversation is what every kind of sandbox can do with a terminal.
const conversation = `trap 'echo interrupted' INT
trap 'busybox stty size' WINCH
busybox stty size
echo error >&2
read x
echo "got $x"
while ! read x; do :; done
exit 5`

func converse(t *testing.T, spec sandbox.Spec) {
	t.Helper()
	p := onTerminal(t, spec)
	p.sees("33 111\r\n")
	p.sees("error\r\n")
	p.types("hello\r")
	p.sees("hello\r\n") // the echo
	p.sees("got hello\r\n")
	p.types("\x03")
	p.sees("interrupted")
	if err := p.process.Resize(sandbox.Window{Rows: 44, Cols: 55}); err != nil {
		t.Error(err)
	}
	p.sees("44 55")
	p.types("end\r")
	p.ends(5)
}

func TestTerminal(t *testing.T)       { converse(t, sh(t, conversation)) }
func TestTerminalChroot(t *testing.T) { converse(t, chrootSpec(t, conversation)) }

// The terminal is one of the sandbox's own devpts, with a name inside, and is the console.
func TestTerminalBelongsToTheSandbox(t *testing.T) {
	p := onTerminal(t, sh(t, "busybox tty; ls -1 /dev/pts; stat -c %t:%T /dev/console /dev/pts/0; echo to the console >/dev/console; echo to the terminal >/dev/tty; exit 7"))
	p.sees("/dev/pts/0\r\n")
	p.sees("0\r\n")
	p.sees("ptmx\r\n")
	p.sees("88:0\r\n")
	p.sees("88:0\r\n")
	p.sees("to the console\r\n")
	p.sees("to the terminal\r\n")
	p.ends(7)
}

// All that was written is shown, and a terminal that nobody has open for a while goes on.
func TestTerminalShowsAll(t *testing.T) {
	p := onTerminal(t, sh(t, "exec <&- >&- 2>&-; exec >/dev/tty; i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo end"))
	p.sees("line 4999")
	p.sees("end")
	p.ends(0)
}

// A terminal is open for the user that the process runs as.
func TestTerminalOfUser(t *testing.T) {
	spec := sh(t, "echo hello > $(busybox tty); id -u")
	spec.UID, spec.GID, spec.Groups = 1000, 1000, nil
	spec.OneUID = oneID(t)
	p := onTerminal(t, spec)
	p.sees("hello")
	p.sees("1000")
	p.ends(0)
}

func TestResizeWithoutTerminal(t *testing.T) {
	p, err := sandbox.Start(t.Context(), newSpec(t, "true"), sandbox.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resize(sandbox.Window{}); err == nil {
		t.Error("there is no terminal to resize")
	}
	p.Wait()
}
