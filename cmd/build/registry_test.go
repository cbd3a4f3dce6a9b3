package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A scriptRegistry is the registry of one script. It can be told to misbehave, and it is
// the place where steps meet each other and the script.
type scriptRegistry struct {
	t    testing.TB
	host string
	rec  testkit.Recorder
	done chan struct{} // closed when the script has ended

	mu     sync.Mutex
	mood   testkit.Middleware       // nil is a good one
	visits map[string]chan struct{} // one token for each visit of a meeting
}

type registryKey struct{}

// newRegistry starts a registry that holds busybox:latest.
func newRegistry(t testing.TB) *scriptRegistry {
	r := &scriptRegistry{t: t, done: make(chan struct{}), visits: map[string]chan struct{}{}}
	r.host = testkit.Registry(t, r.rec.Record, r.meet, r.misbehave)
	t.Cleanup(func() { close(r.done) }) // before the server waits for its handlers
	testkit.PushImage(t, r.host, "busybox:latest", testkit.Busybox(t))
	r.rec.Reset()
	return r
}

// meet answers what is asked by steps. GET /note/NAME is only noted; GET /meet/NAME answers when
// it was asked for twice, so two steps that ask for it have run at the same time; GET /wait/NAME never answers.
func (r *scriptRegistry) meet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch dir, name := path.Split(req.URL.Path); dir {
		case "/note/":
		case "/meet/":
			if !r.met(name, req) {
				http.Error(w, "nobody came", http.StatusGatewayTimeout)
			}
		case "/wait/":
			r.forever(req)
		default:
			next.ServeHTTP(w, req)
		}
	})
}

// met waits for the other visitor of a meeting.
func (r *scriptRegistry) met(name string, req *http.Request) bool {
	r.mu.Lock()
	other, here := r.visits[name]
	if !here {
		other = make(chan struct{})
		r.visits[name] = other
	}
	r.mu.Unlock()
	if here {
		close(other)
		return true
	}
	select {
	case <-other:
		return true
	case <-req.Context().Done():
	case <-r.done:
	}
	return false
}

// forever returns when nobody waits for the answer to a request any more.
func (r *scriptRegistry) forever(req *http.Request) {
	select {
	case <-req.Context().Done():
	case <-r.done:
	}
}

func (r *scriptRegistry) misbehave(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		mood := r.mood
		r.mu.Unlock()
		if mood != nil {
			mood(next).ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// down is a registry that ends every connection without an answer.
func down(http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// hang is a registry that never answers requests that contain text.
func (r *scriptRegistry) hang(text string) testkit.Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.Method+" "+req.URL.Path, text) {
				r.forever(req)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// registryCommand is the command "registry" of scripts.
//
//	registry ok | down | cut | damage | refuse    from now on the registry is well, gone, breaks off blobs,
//	                                              sends other bytes, lets nobody in
//	registry auth USER PASSWORD                   lets in USER only
//	registry fail TEXT STATUS                     answers requests that contain TEXT with an HTTP status
//	registry hang TEXT                            never answers requests that contain TEXT
//	registry login USER PASSWORD                  writes the credentials to $DOCKER_CONFIG
//	registry count N [TEXT]                       checks how many requests with TEXT there were
//	registry await TEXT                           waits for the first request with TEXT, as long as the command lives
//	                                              that was started last in the background
//	registry forget                               forgets the requests so far
func registryCommand(ts *testscript.TestScript, neg bool, args []string) {
	r := ts.Value(registryKey{}).(*scriptRegistry)
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch arg(0) {
	case "ok":
		r.become(nil)
	case "down":
		r.become(down)
	case "cut":
		r.become(testkit.CutBlobs(1000))
	case "damage":
		r.become(testkit.DamageBlobs())
	case "refuse":
		r.become(testkit.Unauthorized())
	case "auth":
		r.become(testkit.BasicAuth(arg(1), arg(2)))
	case "fail":
		status, err := strconv.Atoi(arg(2))
		ts.Check(err)
		r.become(testkit.Fail(arg(1), status))
	case "hang":
		r.become(r.hang(arg(1)))
	case "login":
		ts.Check(r.login(ts.Getenv("DOCKER_CONFIG"), arg(1)+":"+arg(2)))
	case "count":
		if got := r.rec.Count(arg(2)); fmt.Sprint(got) != arg(1) {
			ts.Fatalf("%d requests contain %q, not %s:\n%s", got, arg(2), arg(1), strings.Join(r.rec.Requests(), "\n"))
		}
	case "await":
		ts.Check(r.await(ts, arg(1)))
	case "forget":
		r.rec.Reset()
	default:
		ts.Fatalf("registry %s: no such thing", args)
	}
}

// await waits for a request that a command in the background is about to make.
func (r *scriptRegistry) await(ts *testscript.TestScript, text string) error {
	cmds := ts.BackgroundCmds()
	if len(cmds) == 0 {
		return errors.New("nothing runs in the background that could ask for it")
	}
	ctx, cancel := context.WithCancelCause(testkit.Patience(r.t))
	var group errgroup.Group
	group.Go(func() error {
		err := testkit.AwaitEnd(ctx, cmds[len(cmds)-1].Process.Pid)
		if err == nil {
			cancel(errors.New("the command in the background has ended"))
		}
		return nil
	})
	defer group.Wait()
	defer cancel(nil)
	return r.rec.Await(ctx, text)
}

func (r *scriptRegistry) become(m testkit.Middleware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mood = m
}

// login writes credentials as docker login does.
func (r *scriptRegistry) login(dir, userPassword string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	auth := base64.StdEncoding.EncodeToString([]byte(userPassword))
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.host, auth)
	return os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600)
}
