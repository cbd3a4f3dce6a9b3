package source

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// An Agent is an SSH agent that steps may use: one of the host by its socket, or keys that are served from here.
type Agent struct {
	ID     string
	socket string
	raw    bool // whatever a step says is passed on
	keys   agent.Agent
}

// maxKey is how large a file with a key may be.
const maxKey = 100 << 10

// ParseAgent reads the text of --ssh: ID, ID=SOCKET, or ID=KEY with more files of keys, separated by commas. An
// ID alone is the agent that SSH_AUTH_SOCK names.
func ParseAgent(text string) (*Agent, error) {
	id, list, _ := strings.Cut(text, "=")
	a := &Agent{ID: cmp.Or(id, "default")}
	var paths []string
	for _, path := range strings.Split(list, ",") {
		switch path {
		case "raw=true":
			a.raw = true
		case "raw=false", "":
		default:
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		socket := os.Getenv("SSH_AUTH_SOCK")
		if socket == "" {
			return nil, errors.New("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
		}
		paths = []string{socket}
	}
	for _, path := range paths {
		if err := a.add(path); err != nil {
			return nil, err
		}
	}
	if a.raw && a.socket == "" {
		return nil, errors.New("raw mode must supply exactly one socket path")
	}
	return a, nil
}

// add makes the socket or the key at path part of the agent.
func (a *Agent) add(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if a.socket != "" {
		return errors.New("only single socket allowed")
	}
	if fi.Mode()&os.ModeSocket != 0 {
		if a.keys != nil {
			return errors.New("invalid combination of keys and sockets")
		}
		a.socket = path
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return fmt.Errorf("failed to parse %s: %w", path, err)
	}
	if a.keys == nil {
		a.keys = agent.NewKeyring()
	}
	return a.keys.Add(agent.AddedKey{PrivateKey: key})
}

// Serve answers the requests on conn until it ends. A step can list the keys and sign with them; it cannot
// change what the agent has.
func (a *Agent) Serve(conn net.Conn) {
	if a.keys != nil {
		_ = agent.ServeAgent(readOnly{a.keys}, conn)
		return
	}
	host, err := net.Dial("unix", a.socket)
	if err != nil {
		return // the step sees an agent that hangs up
	}
	defer host.Close()
	if !a.raw {
		_ = agent.ServeAgent(readOnly{agent.NewClient(host)}, conn)
		return
	}
	go func() {
		_, _ = io.Copy(host, conn)
		host.Close()
	}()
	_, _ = io.Copy(conn, host)
	conn.Close()
}

// readOnly is an agent that keeps its keys as they are.
type readOnly struct{ agent.Agent }

var errReadOnly = errors.New("a step of a build may not change the agent")

func (readOnly) Add(agent.AddedKey) error   { return errReadOnly }
func (readOnly) Remove(ssh.PublicKey) error { return errReadOnly }
func (readOnly) RemoveAll() error           { return errReadOnly }
func (readOnly) Lock([]byte) error          { return errReadOnly }
func (readOnly) Unlock([]byte) error        { return errReadOnly }
