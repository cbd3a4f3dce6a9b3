package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/owners"
	"github.com/seed0570efb0/build/internal/userns"
	"golang.org/x/sys/unix"
)

// oneUID returns the plan of a script for a sandbox that emulates users where it must: what it says
// is the same in every mode.
func oneUID(t testing.TB, script string) sandbox.Spec {
	t.Helper()
	spec := sh(t, script)
	spec.OneUID = mode(t) == userns.SingleID
	lower := spec.Root.Lower[0]
	applets(t, spec, "chown chgrp tar mknod su adduser addgroup setpriv mv cp chmod mkfifo find sort sync sh cat test [ chroot id wait dd head mktemp install tail grep printf uname stat")
	write(t, lower+"/etc/passwd", "root:x:0:0:root:/:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n")
	write(t, lower+"/etc/group", "root:x:0:\napp:x:1001:\nmore:x:2000:app\n")
	return spec
}

func TestOwners(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"chown": {
			`touch /f; chown 1000:1001 /f; stat -c '%u:%g %a' /f; chown :5 /f; stat -c '%u:%g' /f; chown 0:0 /f; stat -c '%u:%g' /f`,
			"1000:1001 644\n1000:5\n0:0\n",
		},
		"chown of what was there": {
			`chown 7:8 /etc/old; stat -c '%u:%g' /etc/old; cat /etc/old; ls -ln /etc/old | { read m n u g x; echo $u $g; }`,
			"7:8\nold\n7 8\n",
		},
		"copy up keeps the owner": {
			`chown 7:8 /etc/old; echo more >> /etc/old; chmod 600 /etc/old; mv /etc/old /etc/new; ln /etc/new /etc/link; stat -c '%u:%g %a' /etc/new /etc/link`,
			"7:8 600\n7:8 600\n",
		},
		"chown -R": {
			`mkdir -p /d/e; touch /d/e/f; ln -s nowhere /d/l; mkfifo /d/p; chown -R 1000:1001 /d; stat -c '%n %u:%g' /d /d/e /d/e/f /d/l /d/p`,
			"/d 1000:1001\n/d/e 1000:1001\n/d/e/f 1000:1001\n/d/l 1000:1001\n/d/p 1000:1001\n",
		},
		"links": {
			`touch /f; ln -s f /l; chown 5:6 /l; chown -h 7:8 /l; stat -c '%u:%g' /l; stat -Lc '%u:%g' /l; mv /l /m; stat -c '%u:%g' /m; rm /m; ln -s f /m; stat -c '%u:%g' /m`,
			"7:8\n5:6\n7:8\n0:0\n",
		},
		"paths": {
			`mkdir -p /a/b /c; ln -s /a/b /c/abs; ln -s ../a/b /c/rel; cd /a; touch b/f; chown 9:9 ../c/abs/f; stat -c '%u' ../c/rel/../b/f; cd /c/rel; chown 10 ./f; stat -c '%u' ../../a/b/f; chown 11 ../../../../../a/b/f; stat -c '%u' f`,
			"9\n10\n11\n",
		},
		"set-user-ID goes": {
			`touch /f; chmod 6755 /f; chown 3:3 /f; stat -c '%a %u' /f`,
			"755 3\n",
		},
		"devices": {
			`mknod /n c 1 3; mknod -m 640 /b b 8 1; stat -c '%F %t:%T %u %a' /n /b; chown 0:6 /b; stat -c '%F %g' /b; test -c /n && test -b /b && echo yes; mknod /n c 1 3 2>/dev/null || echo there`,
			"character special file 1:3 0 644\nblock special file 8:1 0 640\nblock special file 6\nyes\nthere\n",
		},
		"su": {
			`mkdir -p /home/app; chown app:app /home/app; su app -c 'id; echo > /home/app/f; mkdir /home/app/d; ln -s x /home/app/l; mkfifo /home/app/p; stat -c "%n %u:%g %a" /home/app/*'; id -u; stat -c '%u:%g' /home/app/f`,
			"uid=1000(app) gid=1001(app) groups=1001(app),2000(more)\n" +
				"/home/app/d 1000:1001 755\n/home/app/f 1000:1001 644\n/home/app/l 1000:1001 777\n/home/app/p 1000:1001 644\n0\n1000:1001\n",
		},
		"another user may not": {
			`chmod 755 /; touch /f; mkdir -m 1777 /tmp; su app -c 'chown 1000 /f; mknod /tmp/n c 1 3; echo > /x; mkdir /x; touch /tmp/mine; chown 0 /tmp/mine; chown app:more /tmp/mine; stat -c %u:%g /tmp/mine' 2>&1 | grep -v '^sh:'; ls /`,
			"chown: /f: Operation not permitted\nmknod: /tmp/n: Operation not permitted\n" +
				"mkdir: can't create directory '/x': Permission denied\nchown: /tmp/mine: Operation not permitted\n1000:2000\n" +
				"bin\ndev\netc\nf\nproc\nsys\ntmp\n",
		},
		"orphans": { // the child asks for the first time when its parents are gone
			`mkdir -m 1777 /tmp; mkfifo -m 666 /go /done; su app -c '(: < /go; id -u > /tmp/id; : > /done) &'; : > /go; : < /done; cat /tmp/id; stat -c %u /tmp/id`,
			"1000\n1000\n",
		},
		"umask and set-group-ID": {
			`mkdir /d; chown 0:50 /d; chmod 2777 /d; su app -c 'umask 027; echo > /d/f; mkdir /d/e; stat -c "%u:%g %a" /d/f /d/e'`,
			"1000:50 640\n1000:50 2750\n",
		},
		"chroot": {
			`mkdir -p /r/bin /r/etc; cp /bin/busybox /r/bin; touch /r/f; ln -s /f /r/l; touch /f; chroot /r /bin/busybox chown 4:4 /l; chroot /r /bin/busybox sh -c 'cd etc; busybox chown 5 ../../../bin'; stat -c %u /f /r/f /r/bin`,
			"0\n4\n5\n",
		},
		"long names": {
			`n=$(printf %0200d 0); mkdir -p /$n; touch /$n/$n; chown 5 /$n/$n; stat -c %u /$n/$n /$n; cd /$n; stat -c %u $n`,
			"5\n0\n5\n",
		},
		"open files": {`touch /f /g; exec 4< /f 5< /g; chown 5:6 /f; stat -Lc %u:%g /proc/self/fd/4 /dev/fd/5; id -u; su app -c 'stat -Lc %u /dev/fd/4; id -u'`, "5:6\n0:0\n0\n5\n1000\n"},
		"limits":     {`ulimit -v unlimited; su app -c 'id -u; sh -c "id -u"'`, "1000\n1000\n"},
		"stdout":     {`chown 1000 /dev/stdout && stat -Lc %u /dev/fd/1`, "1000\n"},
		"none":       {`touch /f; chown -h 1000 /none 2>&1; stat /none 2>&1; stat -c %u /f`, "chown: /none: No such file or directory\nstat: can't stat '/none': No such file or directory\n0\n"},
	} {
		if name == "devices" && mode(t) == userns.SubIDs {
			continue // there, the kernel makes no devices
		}
		t.Run(name, func(t *testing.T) { expect(t, oneUID(t, c.script), c.want) })
	}
}

// The owner of the process may be another one from the start.
func TestUserOfProcess(t *testing.T) {
	spec := oneUID(t, `id; cat /proc/self/status | grep Cap; cd /tmp; echo > f; cp f g; mv g h; stat -c '%n %u:%g %a' *; chown 0 f; chown 1000:2000 h; stat -c %g h; echo > /dev/stderr`)
	spec.UID, spec.GID, spec.Groups = 1000, 1001, []uint32{1001, 2000}
	tmp := filepath.Join(spec.Root.Lower[0], "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	none := strings.Repeat("0", 16) + "\n"
	expect(t, spec, "uid=1000(app) gid=1001(app) groups=1001(app),2000(more)\n"+
		"CapInh:\t"+none+"CapPrm:\t"+none+"CapEff:\t"+none+"CapBnd:\t00000000a80425fb\nCapAmb:\t"+none+
		"f 1000:1001 644\nh 1000:1001 644\n2000\n")
}

func TestArchiveWithOwners(t *testing.T) {
	if mode(t) == userns.SubIDs {
		t.Skip("the kernel makes no devices")
	}
	spec := oneUID(t, "tar -xf /a.tar -C /d && cd /d && stat -c '%n %F %u:%g %a' *")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 10, Gid: 20},
		{Name: "file", Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 65534, Gid: 65534},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "x", Uid: 11, Gid: 12},
		{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3, Gid: 5},
		{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 13, Gid: 14},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	write(t, spec.Root.Lower[0]+"/a.tar", b.String())
	if err := os.Mkdir(spec.Root.Lower[0]+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	expect(t, spec, "dir directory 10:20 750\nfile regular empty file 65534:65534 4711\nlink symbolic link 0:0 777\n"+
		"null character special file 0:5 666\npipe fifo 13:14 600\n")
}

// What can carry no mark is told after the end, and is known to the next sandbox if the plan says it.
func TestLinks(t *testing.T) {
	if mode(t) != userns.SingleID {
		t.Skip("owners are real")
	}
	spec := oneUID(t, "ln -s x /l; chown -h 1:2 /l; mkdir /d; ln -s y /d/l; chown -h 3:4 /d/l; mv /d/l /d/m; mkfifo /p; chown 5:6 /p; chown -h 9:9 /bin/ls; ln -s z /z")
	links := runLinks(t, spec)
	want := map[string]owners.Mark{"l": {UID: 1, GID: 2}, "d/m": {UID: 3, GID: 4}, "p": {UID: 5, GID: 6}, "bin/ls": {UID: 9, GID: 9}}
	if !maps.Equal(links, want) {
		t.Errorf("got %v, want %v", links, want)
	}

	next := oneUID(t, "stat -c '%n %u:%g' /l /d/m /p /bin/ls; rm /l; ln -s x /l; stat -c %u /l; touch -h /d/m; chown -h 8 /d/m; stat -c %u:%g /d/m; mv /p /q; stat -c %u:%g /q")
	next.Root.Lower = append([]string{spec.Root.Upper}, next.Root.Lower...)
	next.Links = links
	expect(t, next, "/l 1:2\n/d/m 3:4\n/p 5:6\n/bin/ls 9:9\n0\n8:4\n5:6\n")
}

// runLinks runs spec and returns the owners of what can carry no mark.
func runLinks(t *testing.T, spec sandbox.Spec) map[string]owners.Mark {
	t.Helper()
	var out bytes.Buffer
	p, err := sandbox.Start(context.Background(), spec, sandbox.Stdio{Out: &out, Err: &out})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err != nil || status.Code != 0 {
		t.Fatalf("%+v, %v\n%s", status, err, &out)
	}
	links := map[string]owners.Mark{}
	err = filepath.WalkDir(spec.Root.Upper, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&(fs.ModeSymlink|fs.ModeNamedPipe) == 0 {
			return err
		}
		name, _ := filepath.Rel(spec.Root.Upper, file)
		m, err := p.LinkOwner(unix.AT_FDCWD, file, name)
		if !m.IsZero() {
			links[name] = m
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return links
}

// A file is of the user who makes it, whatever call that takes: those that cannot be followed are none for this user, and programs
// have others for kernels and file systems without them.
func TestNewOpens(t *testing.T) {
	spec := oneUID(t, "/attack && stat -c '%n %u:%g' /tmp/*")
	spec.UID, spec.GID, spec.Groups = 1000, 1001, []uint32{1001}
	tmp := filepath.Join(spec.Root.Lower[0], "tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o755), os.Chmod(tmp, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	expect(t, attackSpec(t, spec, "calls/new opens"), "/tmp/openat2 1000:1001\n/tmp/unnamed 1000:1001\n")
}

// newOpens makes files in the ways of newer programs, or in the old one where the kernel says that it does not know them.
func newOpens() error {
	open := func(name string, err error) error {
		if err != unix.ENOSYS && err != unix.EOPNOTSUPP {
			return err
		}
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY, 0o644)
		return errors.Join(err, unix.Close(fd))
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, "/tmp/openat2", &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o644})
	if err == nil {
		err = unix.Close(fd)
	}
	if err := open("/tmp/openat2", err); err != nil {
		return fmt.Errorf("openat2: %w", err)
	}
	if _, err := unix.Openat2(unix.AT_FDCWD, "/tmp/openat2", &unix.OpenHow{Flags: unix.O_RDONLY}); err != nil {
		return fmt.Errorf("openat2 of what is there: %w", err)
	}
	fd, err = unix.Open("/tmp", unix.O_TMPFILE|unix.O_WRONLY, 0o644)
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "/tmp/unnamed", unix.AT_SYMLINK_FOLLOW)
	}
	return open("/tmp/unnamed", err)
}
