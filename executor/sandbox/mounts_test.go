package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
)

func bind(source, target string, readOnly bool) sandbox.Mount {
	return sandbox.Mount{Type: sandbox.MountBind, Source: source, Target: target, ReadOnly: readOnly}
}

func TestMountTable(t *testing.T) {
	spec := newSpec(t, "cat", "/proc/mounts")
	spec.Network = sandbox.NetworkNone
	out := run(t, spec)
	for line := range strings.Lines(out) {
		field := strings.Fields(line)
		if place := field[1]; place != "/" && !slices.ContainsFunc([]string{"/proc", "/dev", "/sys"}, func(dir string) bool {
			return place == dir || strings.HasPrefix(place, dir+"/")
		}) {
			t.Errorf("not in the plan: %s", line)
		}
		if strings.Contains(line, spec.Root.Upper) {
			t.Errorf("shows a path of the host: %s", line)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(after), filepath.Dir(spec.Root.Target)) {
		t.Errorf("the parent sees mounts of the sandbox:\n%s", after)
	}
}

func TestSystemFolders(t *testing.T) {
	expect(t, sh(t, "cd /dev && echo *; stat -Lc %F null pts/ptmx; stat -c %a shm; echo x > null"),
		"core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero\n"+
			"character special file\ncharacter special file\n1777\n")
	for _, script := range []string{
		"echo 1 > /proc/sys/vm/drop_caches",
		"echo x > /proc/sys/kernel/domainname",
		"echo h > /proc/sysrq-trigger",
		"mkdir /sys/x",
		"touch /sys/kernel/mm/ksm/run && echo 1 > /sys/kernel/mm/ksm/run",
		"mount -t tmpfs none /etc",
		"mount -o remount,rw /proc/sys",
	} {
		if _, _, status, err := try(sh(t, script)); err != nil || status.Code == 0 {
			t.Errorf("%s: status %+v, error %v", script, status, err)
		}
	}
	for _, script := range []string{"cat /proc/kcore", "cat /proc/keys", "cat /proc/timer_list", "ls /sys/firmware", "ls /proc/acpi"} {
		if out, _, _, err := try(sh(t, script)); err != nil || out != "" {
			t.Errorf("%s: %.100q, error %v", script, out, err)
		}
	}
}

func TestProc(t *testing.T) {
	out := run(t, newSpec(t, "readlink", "/proc/self"))
	if old := os.Getenv(maskedVariable) != ""; (out == "1\n") == old {
		t.Errorf("/proc/self is %q, and the old /proc is the only one to have: %v", out, old)
	}
}

func TestSystemFolderIsALink(t *testing.T) {
	for _, name := range []string{"proc", "sys", "dev"} {
		spec := newSpec(t, "true")
		if err := os.Symlink("/etc", filepath.Join(spec.Root.Lower[0], name)); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := try(spec); err == nil {
			t.Errorf("/%s is a link and was accepted", name)
		}
	}
}

func TestBindMounts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "text\n")
	spec := sh(t, `cat /f /d/file
		echo x 2>&- > /f && echo wrote to the file
		touch /d/new 2>&- && echo wrote to the folder
		touch /rw/new
		exit 0`)
	spec.Mounts = []sandbox.Mount{
		bind(file, "/f", true),
		bind(dir, "/d", true),
		bind(dir, "/made/on/the/way", false),
		bind(dir, "/rw", false),
	}
	expect(t, spec, "text\ntext\n")
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Errorf("a writable mount: %v", err)
	}
}

func TestBindMountStaysInTheRoot(t *testing.T) {
	outside := t.TempDir()
	source := filepath.Join(t.TempDir(), "source")
	write(t, source, "source\n")
	for name, link := range map[string]string{
		"absolute":     outside + "/new",
		"up":           strings.Repeat("../", 20) + outside + "/new",
		"magic":        "/proc/self/root" + outside + "/new",
		"to a folder":  outside,
		"up and again": "sub/../../../" + outside + "/new",
	} {
		t.Run(name, func(t *testing.T) {
			spec := newSpec(t, "cat", "/etc/link")
			if name == "to a folder" {
				spec.Args = []string{"cat", "/etc/link/f"}
			}
			if err := os.Symlink(link, filepath.Join(spec.Root.Lower[0], "etc/link")); err != nil {
				t.Fatal(err)
			}
			target := "/etc/link"
			if name == "to a folder" {
				target += "/f"
			}
			spec.Mounts = []sandbox.Mount{bind(source, target, true)}
			if out, _, _, err := try(spec); err == nil && out != "source\n" {
				t.Errorf("got %q", out)
			}
			if entries, _ := os.ReadDir(outside); len(entries) > 0 {
				t.Errorf("%s was made outside of the root", entries[0].Name())
			}
		})
	}
}

func TestLinkLoop(t *testing.T) {
	spec := newSpec(t, "true")
	if err := os.Symlink("loop", filepath.Join(spec.Root.Lower[0], "etc/loop")); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []sandbox.Mount{bind("/bin/busybox", "/etc/loop", true)}
	if _, _, _, err := try(spec); err == nil {
		t.Error("a loop of links was followed")
	}
}

func TestManyLowers(t *testing.T) {
	const n = 400
	spec := sh(t, "cat /layer; ls /l | { n=0; while read x; do n=$((n+1)); done; echo $n; }")
	dir := t.TempDir()
	var lower []string
	for i := range n {
		layer := filepath.Join(dir, fmt.Sprintf(`a name, with: odd\%d`, i))
		if err := os.MkdirAll(fmt.Sprintf("%s/l/%d", layer, i), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, layer+"/layer", fmt.Sprintf("%d\n", i))
		lower = append(lower, layer)
	}
	spec.Root.Lower = append(lower, spec.Root.Lower...)
	expect(t, spec, "0\n400\n")
}

func TestOddNames(t *testing.T) {
	spec := sh(t, "echo x > /new")
	odd := filepath.Join(t.TempDir(), `a:b,c\d e`)
	spec.Root.Upper, spec.Root.Work, spec.Root.Target = odd+"/upper", odd+"/work", odd+"/target"
	for _, dir := range []string{spec.Root.Upper, spec.Root.Work, spec.Root.Target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, spec)
	if _, err := os.Stat(spec.Root.Upper + "/new"); err != nil {
		t.Error(err)
	}
}

func TestFileInMemory(t *testing.T) {
	spec := sh(t, `cat /in/secret; stat -c '%a %u %g %h' /in/secret; ! echo 2>&- > /in/secret; ! rm /in/secret 2>&-`)
	spec.Mounts = []sandbox.Mount{{Type: sandbox.MountFile, Target: "/in/secret", ReadOnly: true, Content: []byte("text\n"), Mode: 0o640}}
	expect(t, spec, "text\n640 0 0 1\n")

	spec = sh(t, "cat /in/secret")
	spec.Mounts = []sandbox.Mount{{Type: sandbox.MountFile, Target: "/in/secret", Content: []byte("text\n"), Mode: 0o640, UID: 1000, GID: 1001}}
	expect(t, spec, "text\n")
}

func TestTmpfsMount(t *testing.T) {
	spec := sh(t, `touch /t/x && stat -c %a /t && ! touch /ro/x 2>&-`)
	spec.Mounts = []sandbox.Mount{
		{Type: sandbox.MountTmpfs, Target: "/t", Size: 1 << 20},
		{Type: sandbox.MountTmpfs, Target: "/ro", ReadOnly: true},
	}
	expect(t, spec, "1777\n")
}

// An overlay of its own shows a part of its trees, and what is written to it is in its upper directory.
func TestOverlayMount(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a/d/sub", "b/d", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/a/d/f", "above\n")
	write(t, dir+"/b/d/f", "below\n")
	write(t, dir+"/b/d/g", "g\n")
	overlay := sandbox.Root{Lower: []string{dir + "/a", dir + "/b"}, Upper: dir + "/upper", Work: dir + "/work"}
	mount := sandbox.Mount{Type: sandbox.MountOverlay, Overlay: &overlay, Path: "d", Target: "/m"}
	spec := sh(t, "cat /m/f /m/g; echo new > /m/f; rm /m/g; cat /m/f; ls /m")
	spec.Mounts = []sandbox.Mount{mount}
	expect(t, spec, "above\ng\nnew\nf\nsub\n")
	if b, _ := os.ReadFile(dir + "/a/d/f"); string(b) != "above\n" {
		t.Errorf("the tree holds %q", b)
	}
	if left, _ := os.ReadDir(spec.Root.Upper + "/m"); len(left) > 0 {
		t.Errorf("%d files in the upper directory of the root", len(left))
	}
	mount.ReadOnly = true
	again := sh(t, "! touch /m/x 2>&-")
	mount.Overlay = &sandbox.Root{Lower: overlay.Lower, Upper: t.TempDir(), Work: t.TempDir()}
	again.Mounts = []sandbox.Mount{mount}
	run(t, again)
}

func TestPathOfAMountStaysInIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/d/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/outside", "outside\n")
	write(t, dir+"/d/sub/f", "inside\n")
	for name, to := range map[string]string{"up": "../outside", "absolute": dir + "/outside", "magic": "/proc/self/root", "in": "sub/f"} {
		if err := os.Symlink(to, filepath.Join(dir, "d", name)); err != nil {
			t.Fatal(err)
		}
		spec := newSpec(t, "cat", "/m")
		spec.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Source: dir + "/d", Path: name, Target: "/m"}}
		out, _, _, err := try(spec)
		if name == "in" && out != "inside\n" || name != "in" && err == nil {
			t.Errorf("%s: got %q, error %v", name, out, err)
		}
	}
}
