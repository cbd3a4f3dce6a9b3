package sandbox

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/internal/userns"
	"golang.org/x/sys/unix"
)

func needPrivilege(t *testing.T) {
	t.Helper()
	if _, inside := userns.Inside(); !inside && userns.Check(userns.Root) != nil {
		t.Skip("needs root or a user namespace")
	}
}

// A process of the sandbox can be brought to execute the trampoline, and must not be able to change it.
func TestTrampolineCannotBeWritten(t *testing.T) {
	needPrivilege(t)
	for name, open := range map[string]func(io.Reader) (int, error){"mount": readOnlyFile, "memory": sealedFile} {
		t.Run(name, func(t *testing.T) {
			fd, err := open(strings.NewReader("program"))
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			path := fmt.Sprintf("/proc/self/fd/%d", fd)
			for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC} {
				f, err := os.OpenFile(path, flags, 0)
				if err == nil {
					if _, err = f.Write([]byte("evil")); err == nil {
						t.Error("was written")
					}
					f.Close()
				}
				t.Log(err)
			}
		})
	}
}

// Kernels before 6.7 take the old way, which a new one goes as well.
func TestMountOverlayOld(t *testing.T) {
	needPrivilege(t)
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "b/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		// Ending while locked ends the thread, and with it the mount namespace.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			in := func(name string) string { return filepath.Join(dir, name) }
			if err := mountOverlayOld(in("root"), in("upper"), in("work"), []string{in("a"), in("b")}); err != nil {
				return err
			}
			return unix.Access(in("root/file"), unix.R_OK)
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := mountOverlayOld("/nowhere", "u", "w", make([]string, 5000)); err == nil {
		t.Error("5000 trees fit on a page")
	}
}

// A sandbox that could not be prepared is made as if nobody had tried.
func TestStageWithoutSpare(t *testing.T) {
	needPrivilege(t)
	var r Runner
	defer r.Close()
	spec := &Spec{Network: NetworkHost}
	failed := &spare{spec.Space(), make(chan func(*stage)), make(chan struct{})}
	close(failed.none)
	r.spares.waiting = []*spare{failed}
	if left := passStage(t, &r, spec); left > 0 {
		t.Error("what has failed is still waiting")
	}
}

// passStage has a stage for spec made, or taken from those that are prepared, and ends it. It returns how many of them are left.
func passStage(t *testing.T, r *Runner, spec *Spec) (left int) {
	t.Helper()
	passed := make(chan error)
	r.onStage(spec, func(st *stage, err error) {
		if err == nil {
			st.close()
			st.end()
		}
		left = len(r.spares.waiting)
		passed <- err
	})
	if err := <-passed; err != nil {
		t.Error(err)
	}
	return left
}

// A spare is taken once, by the first who has a use for it, and there are no more of them than processors.
func TestSparesAreFewAndTaken(t *testing.T) {
	needPrivilege(t)
	var r Runner
	defer r.Close()
	spec := &Spec{Network: NetworkHost}
	for range 100 {
		r.Prepare(spec.Space())
	}
	most := runtime.GOMAXPROCS(0)
	if n := len(r.spares.waiting); n != most {
		t.Errorf("%d are prepared for %d processors", n, most)
	}
	if n := passStage(t, &r, spec); n != most-1 {
		t.Errorf("%d of %d are left when one is taken", n, most)
	}
}
