package conformance

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// startDaemon starts a server and returns when a line of its log says that it serves, with what the groups of ready
// match in that line. The server ends with the test, gently; one that does not is up to go test -timeout.
func startDaemon(t *testing.T, server *exec.Cmd, ready *regexp.Regexp) []string {
	t.Helper()
	log, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	server.Stdout, server.Stderr = w, w
	err = server.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder // the log until then, and for a server that fails all of it
	match := make(chan []string)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(match)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			text.WriteString(lines.Text() + "\n")
			if m := ready.FindStringSubmatch(lines.Text()); m != nil {
				match <- m
				_, _ = io.Copy(io.Discard, log) // or it would wait for us
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		log.Close() // children of the server may hold its other end
		reader.Wait()
	})
	m, ok := <-match
	if !ok {
		t.Fatalf("%s does not start:\n%s", server.Path, lastLines(text.String(), 5))
	}
	return m
}
