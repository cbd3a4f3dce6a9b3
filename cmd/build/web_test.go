package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
)

// A web is the server of one script, at $WEB, for what builds fetch by URL:
//
//	/files/F     the file F of $WORK/web, with ETag and Last-Modified
//	/bare/F      the same without either, and without a length
//	/token/F     the same as /files/F, for who has the token "sesame"
//	/cut/F       half of it
//	/status/N    nothing, with that status
//	/hang/F      nothing, for as long as somebody waits; "web -hung" waits for that
//	/git/R.git   the repository in the folder R of $WORK/git; /dumb/R.git the same as plain files
type web struct {
	root string
	git  http.Handler

	hung chan struct{}

	mu  sync.Mutex
	log []string
}

type webKey struct{}

// newWeb starts the server of a script.
func newWeb(env *testscript.Env) {
	w := &web{root: env.WorkDir, hung: make(chan struct{}, 16), git: testkit.GitServer(env.T().(testing.TB), env.WorkDir)}
	server := httptest.NewServer(w)
	env.Defer(server.Close)
	env.Values[webKey{}] = w
	env.Setenv("WEB", server.URL)
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seen := &status{ResponseWriter: w, code: http.StatusOK}
	defer func() {
		s.mu.Lock()
		s.log = append(s.log, fmt.Sprintf("%s %s %d", r.Method, r.URL.Path, seen.code))
		s.mu.Unlock()
	}()
	kind, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch kind {
	case "git":
		s.git.ServeHTTP(seen, r)
	case "dumb":
		r.URL.Path = "/dumb/git/" + name
		s.git.ServeHTTP(seen, r)
	case "hang":
		s.hung <- struct{}{}
		<-r.Context().Done()
	case "status":
		code, _ := strconv.Atoi(name)
		seen.WriteHeader(code)
	case "token":
		if r.Header.Get("Authorization") != "Bearer sesame" {
			seen.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.file(seen, r, kind, name)
	default:
		s.file(seen, r, kind, name)
	}
}

func (s *web) file(w http.ResponseWriter, r *http.Request, kind, name string) {
	text, err := os.ReadFile(path.Join(s.root, "web", path.Clean("/"+name)))
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	switch kind {
	case "bare":
		w.(http.Flusher).Flush()
		w.Write(text)
	case "cut":
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.Write(text[:len(text)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("ETag", `"`+digest.Of(text).Short()+`"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(string(text)))
	}
}

// status notes the status of an answer.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) { s.code = code; s.ResponseWriter.WriteHeader(code) }
func (s *status) Flush()               { s.ResponseWriter.(http.Flusher).Flush() }

// webCommand is "web", or "web -hung": it prints what the server was asked since the last time, as method, path and status.
func webCommand(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value(webKey{}).(*web)
	if len(args) > 0 {
		<-w.hung
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.log {
		fmt.Fprintln(ts.Stdout(), line)
	}
	w.log = nil
}

// repoCommand is "repo DIR [NAME CONTENT]...": it makes a git repository where there is none, commits files to it, and
// prints the commit.
func repoCommand(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	commit := ""
	if _, err := os.Stat(dir + "/.git"); err != nil {
		commit = testkit.GitRepo(tb(ts), dir, args[1:]...)
	} else {
		commit = testkit.GitCommit(tb(ts), dir, args[1:]...)
	}
	testkit.Git(tb(ts), dir, "update-server-info")
	io.WriteString(ts.Stdout(), commit+"\n")
}

// gitCommand is "git DIR ARG...".
func gitCommand(ts *testscript.TestScript, neg bool, args []string) {
	fmt.Fprintln(ts.Stdout(), testkit.Git(tb(ts), ts.MkAbs(args[0]), args[1:]...))
}
