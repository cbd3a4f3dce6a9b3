package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/safefs"
	"github.com/seed0570efb0/build/internal/sparse"
	"github.com/seed0570efb0/build/snapshot"
)

// A Local is a folder of this machine seen as a tree to copy from: through the ignore
// patterns, with everything owned by 0:0, and without extended attributes. It is read as
// far as it is asked for: an ignored folder is not entered. It is safe for concurrent use.
type Local struct {
	dir     string
	root    *safefs.Root
	matcher *patternmatcher.PatternMatcher // nil: nothing is ignored
	index   *StatIndex

	mu      sync.Mutex
	dirs    map[string]*localDir
	learned bool // something that the index does not know
}

// NewLocal returns the folder dir seen through patterns, those of .dockerignore in order.
// index, which may be nil, remembers digests of files between builds.
func NewLocal(dir string, patterns []string, index *StatIndex) (*Local, error) {
	l := &Local{dir: dir, index: index, dirs: map[string]*localDir{}}
	var err error
	if len(patterns) > 0 {
		if l.matcher, err = patternmatcher.New(patterns); err != nil {
			return nil, fmt.Errorf("ignore patterns: %w", err)
		}
	}
	l.root, err = safefs.Open(dir) // last: nothing is left open
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Close closes the folder.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.root.Close()
}

// Lstat implements snapshot.Tree.
func (l *Local) Lstat(p string) (snapshot.Entry, bool, error) {
	if p == "." {
		return snapshot.Entry{Path: ".", Type: snapshot.Dir, Mode: 0o755}, true, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.read(filepath.Dir(p))
	i, ok := d.find(filepath.Base(p))
	if d.err != nil || !ok {
		return snapshot.Entry{}, false, d.err
	}
	return d.entry(i, p), true, nil
}

// ReadDir implements snapshot.Tree.
func (l *Local) ReadDir(p string) ([]snapshot.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.read(p)
	if d.err != nil {
		return nil, d.err
	}
	return d.entries(p), nil
}

// read reads a folder once. The folder must be seen itself, or it has no entries.
func (l *Local) read(p string) *localDir {
	if d, ok := l.dirs[p]; ok {
		return d
	}
	d := &localDir{}
	l.dirs[p] = d
	if p != "." {
		parent := l.read(filepath.Dir(p))
		i, ok := parent.find(filepath.Base(p))
		if parent.err != nil || !ok || parent.files[i].kind != snapshot.Dir {
			d.err = parent.err
			return d
		}
		if l.matcher != nil {
			_, d.match, d.err = l.matcher.MatchesUsingParentResults(p, parent.match)
		}
	}
	if d.err == nil {
		d.err = l.list(p, d)
	}
	return d
}

// list reads the folder p into d, whose patterns match already, without what is ignored.
func (l *Local) list(p string, d *localDir) error {
	f, err := l.root.OpenFile(p)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	known := l.index.folder(p)
	d.files = make([]localFile, 0, len(names))
	total := 0
	for _, name := range names {
		total += len(name)
	}
	d.names.Grow(total)
	for _, name := range names {
		path := name
		if p != "." {
			path = p + "/" + name
		}
		record := known.take(name)
		e, st, err := statAt(int(f.Fd()), name, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		seen, err := l.sees(e, d.match)
		if err != nil {
			return err
		}
		if !seen {
			d.unseen = append(d.unseen, record...)
			continue
		}
		if e.Type == snapshot.Regular {
			e.Digest = digestIn(record, st)
		}
		d.add(name, &e, st)
	}
	d.read, d.gone = true, known.end()
	l.index.drop(p)
	return nil
}

// sees reports whether e is not ignored, or a folder with something in it that is not.
func (l *Local) sees(e snapshot.Entry, parent patternmatcher.MatchInfo) (bool, error) {
	if l.matcher == nil {
		return true, nil
	}
	ignored, match, err := l.matcher.MatchesUsingParentResults(e.Path, parent)
	if err != nil || !ignored {
		return !ignored, err
	}
	if e.Type != snapshot.Dir || !l.mayReinclude(e.Path) {
		return false, nil
	}
	d := &localDir{match: match}
	if err := l.list(e.Path, d); err != nil {
		return false, err
	}
	l.dirs[e.Path] = d // even if nothing is seen of it: the index forgets what was read
	return len(d.files) > 0, nil
}

// mayReinclude reports whether a pattern with "!" could match something in the ignored folder dir.
func (l *Local) mayReinclude(dir string) bool {
	if !l.matcher.Exclusions() {
		return false
	}
	for _, p := range l.matcher.Patterns() {
		if p.Exclusion() && couldMatchBelow(p.String(), dir) {
			return true
		}
	}
	return false
}

// couldMatchBelow reports whether pattern, element by element, allows a match below dir.
func couldMatchBelow(pattern, dir string) bool {
	pat := strings.Split(pattern, "/")
	for i, name := range strings.Split(dir, "/") {
		if i >= len(pat) || strings.Contains(pat[i], "**") {
			return true // a pattern that names a parent of dir means all in it
		}
		if ok, err := filepath.Match(pat[i], name); err == nil && !ok {
			return false
		}
	}
	return true
}

// statAt returns the entry of name in the open folder dir.
func statAt(dir int, name, path string) (snapshot.Entry, stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return snapshot.Entry{}, stamp{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	e := snapshot.Entry{Path: path, Mode: st.Mode & 0o7777, Mtime: st.Mtim.Sec}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = snapshot.Regular, st.Size
	case unix.S_IFDIR:
		e.Type = snapshot.Dir
	case unix.S_IFLNK:
		e.Type = snapshot.Symlink
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return e, stamp{}, &fs.PathError{Op: "readlink", Path: path, Err: err}
		}
		e.Link = string(buf[:n])
	case unix.S_IFSOCK:
		e.Type = snapshot.Regular // an image cannot carry a socket; an empty file keeps the name
	case unix.S_IFIFO:
		e.Type = snapshot.Fifo
	case unix.S_IFCHR:
		e.Type, e.Major, e.Minor = snapshot.Char, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFBLK:
		e.Type, e.Major, e.Minor = snapshot.Block, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		e.Inode = makeStamp(&st).inode()
	}
	return e, makeStamp(&st), nil
}

// Open implements snapshot.Tree. It fails when the file is not the one that was seen, and so does reading it to its end.
func (l *Local) Open(e snapshot.Entry) (io.ReadCloser, error) {
	f, err := l.open(e)
	if err != nil {
		return nil, err
	}
	if d, seen := l.known(e.Path); !d.IsZero() && f.stamp != (stamp{}) && f.stamp != seen {
		f.Close()
		return nil, l.changed(e.Path)
	}
	return f, nil
}

// An opened file is read without its holes. Where it ends there is an error instead if it has changed since it was opened: what was read may
// be of both.
type opened struct {
	in    io.Reader
	file  *os.File
	stamp stamp // none: it is empty, whatever it is
	local *Local
	path  string
}

// Read implements io.Reader.
func (o *opened) Read(p []byte) (int, error) {
	n, err := o.in.Read(p)
	if err != io.EOF || o.stamp == (stamp{}) {
		return n, err
	}
	st, err := statOf(o.file)
	if err == nil && makeStamp(&st) != o.stamp {
		err = o.local.changed(o.path)
	}
	return n, cmp.Or(err, io.EOF)
}

// Close implements io.Closer.
func (o *opened) Close() error { return o.file.Close() }

// open opens the file of an entry. What cannot be opened is empty, and has no stamp.
func (l *Local) open(e snapshot.Entry) (*opened, error) {
	f, err := l.root.OpenFile(e.Path)
	switch {
	case errors.Is(err, unix.ENXIO): // a socket
		f, err = os.Open(os.DevNull)
		return &opened{in: f, file: f}, err
	case errors.Is(err, unix.ELOOP):
		return nil, l.changed(e.Path)
	case err != nil:
		return nil, err
	}
	st, err := statOf(f)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != e.Size || st.Mtim.Sec != e.Mtime) {
		err = l.changed(e.Path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &opened{sparse.NewReader(int(f.Fd()), &st), f, makeStamp(&st), l, e.Path}, nil
}

// changed is the error of a file that is not what was seen.
func (l *Local) changed(p string) error {
	return fmt.Errorf("%s: %w", filepath.Join(l.dir, p), snapshot.ErrChanged)
}

// Digest implements snapshot.Tree.
func (l *Local) Digest(ctx context.Context, e snapshot.Entry) (digest.Digest, error) {
	if d, _ := l.known(e.Path); !d.IsZero() {
		return d, nil
	}
	begun := l.index.time()
	d, st, err := l.hash(ctx, e)
	if err != nil {
		return digest.Digest{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := l.read(filepath.Dir(e.Path))
	if i, ok := dir.find(filepath.Base(e.Path)); ok {
		f := &dir.files[i]
		f.digest, f.lasting = d, l.index.trusts(st, begun)
		if st != (stamp{}) {
			f.stamp = st
		}
		l.learned = l.learned || f.lasting
	}
	return d, nil
}

// known returns the digest of a file that was seen, if it need not be computed any more, and the file's stamp.
func (l *Local) known(p string) (digest.Digest, stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.read(filepath.Dir(p))
	i, ok := d.find(filepath.Base(p))
	if !ok {
		return digest.Digest{}, stamp{}
	}
	return d.files[i].digest, d.files[i].stamp
}

func (l *Local) hash(ctx context.Context, e snapshot.Entry) (digest.Digest, stamp, error) {
	f, err := l.open(e)
	if err != nil {
		return digest.Digest{}, stamp{}, err
	}
	defer f.Close()
	d, err := digest.FromReader(ctx, f)
	return d, f.stamp, err
}
