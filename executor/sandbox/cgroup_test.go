package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// A group with processes in it is left as it is: the kernel would let it have controllers for children that no process can enter. The one above,
// which a user has been given, is used.
func TestDelegatedGroup(t *testing.T) {
	mount := t.TempDir()
	user := filepath.Join(mount, "user")
	for dir, files := range map[string]map[string]string{
		"":               {"cgroup.subtree_control": "cpu memory pids\n", "cgroup.procs": "1\n"},
		"user":           {"cgroup.subtree_control": "memory\n", "cgroup.procs": "", "cgroup.type": "domain\n"},
		"user/threads":   {"cgroup.subtree_control": "pids\n", "cgroup.procs": "", "cgroup.type": "domain threaded\n"},
		"user/session":   {"cgroup.subtree_control": "", "cgroup.procs": "7\n", "cgroup.type": "domain\n"},
		"user/session/a": {"cgroup.subtree_control": "memory\n", "cgroup.procs": "8\n", "cgroup.type": "domain\n"},
	} {
		if err := os.MkdirAll(filepath.Join(mount, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(mount, dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, from := range []string{"user", "user/threads", "user/session/a"} {
		for _, c := range []string{"memory", "pids"} {
			if got, err := delegated(mount, filepath.Join(mount, from), c); got != user || err != nil {
				t.Errorf("%s from %s: %s, %v, want %s", c, from, got, err, user)
			}
		}
	}
	if got, err := delegated(mount, mount, "cpu"); got != mount || err != nil {
		t.Errorf("the root gives %s, %v", got, err)
	}
	if b, _ := os.ReadFile(filepath.Join(user, "session", "cgroup.subtree_control")); len(b) > 0 {
		t.Errorf("a group with processes was asked for %s", b)
	}
}
