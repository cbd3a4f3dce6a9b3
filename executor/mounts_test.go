package executor

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// run returns a vertex that mounts things of a local folder on scratch.
func run(mounts ...llb.Mount) *llb.Vertex {
	return onContext(&llb.Exec{Args: []string{"true"}, Mounts: mounts})
}

func bindOf(source string) llb.Mount {
	return llb.Mount{Type: llb.MountBind, Target: "/m", From: 1, Source: source, ReadOnly: true}
}

// What a bind mount shows is the key of the step, and nothing beside it; what is in a cache is not.
func TestMountKeyIsWhatItShows(t *testing.T) {
	keyOf := func(m llb.Mount, specs ...string) any {
		x := newExecutor(t)
		x.folder(t, t.TempDir(), specs...)
		return key(t, x, run(m))
	}
	want := keyOf(bindOf("/src"), "src/a @1 = one", "other = x")
	for name, c := range map[string]struct {
		key  any
		same bool
	}{
		"times and files beside": {keyOf(bindOf("/src"), "src/a @2 = one", "other = y", "more = z"), true},
		"bytes":                  {keyOf(bindOf("/src"), "src/a = two", "other = x"), false},
		"name":                   {keyOf(bindOf("/src"), "src/b = one", "other = x"), false},
		"mode":                   {keyOf(bindOf("/src"), "src/a 600 = one", "other = x"), false},
		"mode of the folder":     {keyOf(bindOf("/src"), "src/ 700", "src/a = one", "other = x"), false},
		"all":                    {keyOf(bindOf("/"), "src/a = one", "other = x"), false},
	} {
		if (c.key == want) != c.same {
			t.Errorf("%s: same key %v, want %v", name, c.key == want, c.same)
		}
	}
}

// A folder of the host is shown as it was hashed: only what is seen, owned by 0:0, once for all steps.
func TestShownFolder(t *testing.T) {
	x := newExecutor(t)
	dir := t.TempDir()
	testkit.Tree(t, dir, "d/f 640 @100 = text", "d/secret = x", "d/link -> f", "d/hard => d/f", "d/sub/g = g")
	local, err := source.NewLocal(dir, []string{"**/secret"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	x.Locals["context"] = local
	m := bindOf("/d")
	var before []string
	for range 2 {
		lower, entry, err := x.shown(t.Context(), run(m), &m, nil)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && lower[0] != before[0] {
			t.Errorf("made twice: %s and %s", before[0], lower[0])
		}
		before = lower
		got := testkit.ListDir(t, filepath.Join(lower[0], entry.Path))
		want := strings.Join([]string{"0640 0:0 f f 4 sha256:982d9e3eb996", "0640 0:0 h hard -> f", "0777 0:0 l link -> f", "0755 0:0 d sub", ""}, "\n")
		if !strings.HasPrefix(got, want) {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if fi, err := os.Stat(filepath.Join(lower[0], entry.Path, "f")); err != nil || fi.ModTime().Unix() != 100 {
			t.Errorf("%v %v", fi, err)
		}
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	x.Disk.Close()
	if left, _ := os.ReadDir(x.Disk.Path("tmp")); len(left) > 0 {
		t.Errorf("%d folders are left", len(left))
	}
}

// Mount points are only made where they are missing, in folders that look as in the root.
func TestPlaces(t *testing.T) {
	x := newExecutor(t)
	x.folder(t, t.TempDir(), "etc/hosts = x", "closed/ 700 @50", "link -> closed/in", "file = x", "up -> ../../../far")
	root, err := x.Execute(t.Context(), copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/"}}, Dest: "/"}), make([]digest.Digest, 2))
	if err != nil {
		t.Fatal(err)
	}
	view, err := x.Layers.View(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	p := places{view: view}
	for target, kind := range map[string]snapshot.Type{
		"/etc/hosts": snapshot.Regular, "/etc": snapshot.Dir, "/link/m": snapshot.Dir, "/up": snapshot.Regular, "/a/b": snapshot.Dir, "/a": snapshot.Dir,
		"/dev/pipes": snapshot.Dir, "/proc/x": snapshot.Dir, "/file": snapshot.Dir, "/file/in/it": snapshot.Dir,
	} {
		if err := p.add(target, kind); err != nil {
			t.Error(err)
		}
	}
	var got []string
	for _, e := range p.list() {
		got = append(got, fmt.Sprintf("%c %s %o %d", e.Type, e.Path, e.Mode, e.Mtime))
	}
	want := []string{"d a 755 0", "d a/b 755 0", "d closed 700 50", "d closed/in 755 0", "d closed/in/m 755 0", "f far 644 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An agent's socket works where its path is longer than a socket's address, and ends with all its connections.
func TestAgentSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := listen(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	end := forward(l, func(c net.Conn) { io.Copy(c, c) })
	t.Chdir(dir)
	conn, err := net.Dial("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 4)
	conn.Write([]byte("ping"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "ping" {
		t.Errorf("%q, %v", answer, err)
	}
	end()
	if _, err := conn.Read(answer); err == nil {
		t.Error("the connection goes on")
	}
}

// With --no-cache each folder of a cache is emptied once per build, also while others want it.
func TestCacheIsRenewedOnce(t *testing.T) {
	x := newExecutor(t)
	for _, sharing := range []llb.Sharing{llb.SharingShared, llb.SharingLocked, llb.SharingPrivate} {
		cm := &cacheMount{name: "mounts/" + string(sharing), sharing: sharing}
		use := func(x *Executor, renew bool, want int) {
			t.Helper()
			dir, unlock, err := x.takeCache(t.Context(), cm, renew)
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
			list, err := os.ReadDir(dir)
			if err != nil || len(list) != want {
				t.Errorf("%s: %d files, want %d (%v)", sharing, len(list), want, err)
			}
			os.WriteFile(filepath.Join(dir, fmt.Sprint(len(list))), nil, 0o644)
		}
		use(x, false, 0)
		use(x, false, 1)
		next := &Executor{Layers: x.Layers, Disk: x.Disk, Now: x.Now}
		use(next, true, 0)
		use(next, true, 1)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, unlock, err := next.takeCache(t.Context(), cm, true)
				if err != nil {
					t.Error(err)
					return
				}
				unlock()
			})
		}
		wg.Wait()
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	spec := sandbox.Spec{Mounts: []sandbox.Mount{{Type: sandbox.MountFile, Content: sandbox.Secret("s3cret")}}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if text := fmt.Sprintf(verb, spec.Mounts[0].Content); strings.Contains(text, "s3cret") || strings.Contains(text, "733363") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
	if text := fmt.Sprintf("%+v", spec); strings.Contains(text, "s3cret") || strings.Contains(text, "115") {
		t.Errorf("a plan prints %s", text)
	}
}
