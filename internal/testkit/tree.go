package testkit

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An entry is one line of the description of a tree.
type entry struct {
	path     string
	kind     byte   // as in listings: d, f, l, h, p
	arg      string // the content of a file, the target of a link
	mode     uint32 // with setuid, setgid and sticky bits
	uid, gid int    // -1 when not given
	modTime  time.Time
}

// Tree writes the files that specs describe below dir, in order, and makes missing parents. Each spec is
//
//	PATH [MODE] [UID:GID] [@SECONDS] [= CONTENT | -> TARGET | => PATH]
//
// with a trailing slash for a directory, the words that give its permission bits (octal), owner and
// modification time, and what it is: a file (empty when there is no content), a symbolic link, a hard
// link to a path of the same tree; the word fifo makes a named pipe. For example
//
//	testkit.Tree(t, dir, "bin/ 700", "bin/run 755 @1700000000 = #!/bin/sh\n", "run -> bin/run", "hard => bin/run")
//
// Modes do not depend on the umask: 755 for directories, 644 for others unless given.
func Tree(t testing.TB, dir string, specs ...string) {
	t.Helper()
	var entries []entry
	for _, spec := range specs {
		e, err := parse(spec)
		if err == nil {
			err = e.write(dir)
		}
		if err != nil {
			t.Fatalf("tree %q: %v", spec, err)
		}
		entries = append(entries, e)
	}
	// Only now: writing into a directory changes its time.
	for _, e := range entries {
		if e.modTime.IsZero() {
			continue
		}
		if err := setTime(filepath.Join(dir, e.path), e.modTime); err != nil {
			t.Fatal(err)
		}
	}
}

// Tar returns an uncompressed tar of what specs describe, in order and with the names as they are, so that an
// archive can be as wrong as a test needs it. Owners are 0:0 and times 0 unless given; no parents are added.
func Tar(t testing.TB, specs ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, spec := range specs {
		e, err := parse(spec)
		if err != nil {
			t.Fatalf("tar %q: %v", spec, err)
		}
		h := &tar.Header{Name: e.path, Mode: int64(e.mode), Uid: max(e.uid, 0), Gid: max(e.gid, 0), ModTime: e.modTime}
		if e.modTime.IsZero() {
			h.ModTime = time.Unix(0, 0)
		}
		content := ""
		switch e.kind {
		case 'd':
			h.Typeflag = tar.TypeDir
		case 'f':
			h.Typeflag, content = tar.TypeReg, e.arg
		case 'l':
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.arg
		case 'h':
			h.Typeflag, h.Linkname = tar.TypeLink, e.arg
		case 'p':
			h.Typeflag = tar.TypeFifo
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("tar %q: %v", spec, err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatalf("tar %q: %v", spec, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// parse reads a spec as Tree describes it.
func parse(spec string) (entry, error) {
	head, kind, arg := cutArg(spec)
	e := entry{kind: kind, arg: arg, uid: -1, gid: -1, mode: 0o644}
	words := strings.Fields(head)
	if len(words) == 0 {
		return e, errors.New("no path")
	}
	e.path = words[0]
	switch {
	case strings.HasSuffix(e.path, "/"):
		e.kind, e.mode = 'd', 0o755
	case e.kind == 'l':
		e.mode = 0o777
	}
	for _, w := range words[1:] {
		if err := e.set(w); err != nil {
			return e, err
		}
	}
	return e, nil
}

// cutArg cuts a spec at the first of the marks that introduce a content or a target.
func cutArg(spec string) (head string, kind byte, arg string) {
	marks := map[string]byte{" = ": 'f', " -> ": 'l', " => ": 'h'}
	head, kind = spec, 'f'
	for mark, k := range marks {
		if before, after, ok := strings.Cut(spec, mark); ok && len(before) < len(head) {
			head, kind, arg = before, k, after
		}
	}
	return head, kind, arg
}

// set reads one of the words after the path.
func (e *entry) set(word string) error {
	uid, gid, owner := strings.Cut(word, ":")
	seconds, timed := strings.CutPrefix(word, "@")
	var err error
	switch {
	case word == "fifo":
		e.kind = 'p'
	case owner:
		if e.uid, err = strconv.Atoi(uid); err == nil {
			e.gid, err = strconv.Atoi(gid)
		}
	case timed:
		var n int64
		n, err = strconv.ParseInt(seconds, 10, 64)
		e.modTime = time.Unix(n, 0)
	default:
		var bits uint64
		bits, err = strconv.ParseUint(word, 8, 12)
		e.mode = uint32(bits)
	}
	return err
}

// write makes the entry below dir, without its time.
func (e *entry) write(dir string) error {
	path := filepath.Join(dir, e.path)
	if err := parents(filepath.Dir(path)); err != nil {
		return err
	}
	var err error
	switch e.kind {
	case 'd':
		if err = os.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
			err = nil
		}
	case 'f':
		err = os.WriteFile(path, []byte(e.arg), 0o600)
	case 'l':
		err = os.Symlink(e.arg, path)
	case 'h':
		return os.Link(filepath.Join(dir, e.arg), path) // which has a mode and an owner
	case 'p':
		err = unix.Mkfifo(path, 0o600)
	}
	if err == nil && e.uid >= 0 {
		err = os.Lchown(path, e.uid, e.gid)
	}
	// After chown, which clears setuid bits.
	if err == nil && e.kind != 'l' {
		err = unix.Chmod(path, e.mode)
	}
	return err
}

// parents makes dir and its parents with mode 755, whatever the umask.
func parents(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := parents(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// setTime sets the time of path itself, also of a symbolic link.
func setTime(path string, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time of %s: %w", path, err)
	}
	return nil
}
