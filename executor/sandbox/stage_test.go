package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A stage has the mounts of the host as they are now: one that waits for its plan neither lacks a disk nor holds one that was
// taken out.
func TestStageFollowsTheMountsOfTheHost(t *testing.T) {
	needPrivilege(t)
	dir := t.TempDir()
	mount := func(target string, flags uintptr) {
		t.Helper()
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", target, "tmpfs", flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(dir, 0)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil { // as systemd makes all of them
		t.Fatal(err)
	}
	early, late := filepath.Join(dir, "early"), filepath.Join(dir, "late")
	mount(early, 0)
	var r Runner
	defer r.Close()
	ready, changed, ended := make(chan error), make(chan struct{}), make(chan bool)
	r.onStage(&Spec{Network: NetworkHost}, func(st *stage, err error) {
		defer func() { ended <- true }()
		ready <- err
		<-changed
		if err != nil {
			return
		}
		defer st.end()
		defer st.close()
		if isMount(early) {
			t.Error("it holds what was unmounted since")
		}
		if !isMount(late) {
			t.Error("it lacks what was mounted since")
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Error(err)
		}
	})
	if err := <-ready; err != nil {
		t.Error(err)
	}
	if !isMount(early) {
		t.Errorf("%s is no mount", early)
	}
	if err := unix.Unmount(early, 0); err != nil {
		t.Error(err)
	}
	mount(late, 0)
	close(changed)
	<-ended
	if !isMount(late) {
		t.Error("what was mounted on the stage shows on the host")
	}
}

// isMount reports whether this thread sees a mount on dir.
func isMount(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}
