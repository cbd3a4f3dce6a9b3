package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/snapshot"
)

// A meter measures a store again and again. A folder whose time has not changed has the same files as before, since files of a
// store are never written in place: it costs a stat. Folders in which programs write whatever they like, the trees of layers and
// cache mounts, are walked once and remembered, by all processes.
type meter struct {
	disk *cache.Store
	root *dir
	last int64            // what total gave
	deep map[string]int64 // what deep folders take, by name and state
	seen map[string]bool  // those that are there
	news bool             // deep is not on disk as it is
}

// A dir is a folder as it was read.
type dir struct {
	name        string // relative to the store
	path        string
	mtime, read time.Time
	files       int64           // what its files take
	dirs        map[string]*dir // but those that are deep
	deep        []string        // names of those
}

// tick is how long a folder may change without a change of its time: the clocks of file systems are not finer.
const tick = 50 * time.Millisecond

// deepFile remembers what deep folders take.
const deepFile = "sizes"

func newMeter(disk *cache.Store) *meter {
	m := &meter{disk: disk, root: &dir{path: disk.Root(), name: "."}, deep: map[string]int64{}, seen: map[string]bool{}}
	if b, err := disk.ReadFile(deepFile); err == nil && json.Unmarshal(b, &m.deep) != nil {
		m.deep = map[string]int64{} // damaged: measured again
	}
	return m
}

// total returns what the store takes of the disk, without what is being made.
func (m *meter) total() (int64, error) {
	clear(m.seen)
	n, err := m.measure(m.root)
	m.last = n
	return n, err
}

// bytes returns what a file or folder of the store takes, with all in it.
func (m *meter) bytes(name string) (int64, error) {
	if isDeep(name) {
		return m.walk(name)
	}
	d := m.root
	for _, part := range strings.Split(name, "/") {
		if d = d.dirs[part]; d == nil { // a file, or not seen yet
			d = &dir{name: name, path: m.disk.Path(name)}
			break
		}
	}
	return m.measure(d)
}

// measure returns what d takes, which may be a file as well.
func (m *meter) measure(d *dir) (int64, error) {
	var st unix.Stat_t
	switch err := unix.Lstat(d.path, &st); {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	total := st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return total, nil
	}
	if mtime := time.Unix(st.Mtim.Unix()); !d.mtime.Equal(mtime) || d.read.Sub(mtime) <= tick {
		if err := m.readDir(d, mtime); err != nil {
			return 0, err
		}
	}
	total += d.files
	for _, name := range d.deep {
		n, err := m.walk(name)
		if err != nil {
			return 0, err
		}
		total += n
	}
	for _, sub := range d.dirs {
		n, err := m.measure(sub)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// readDir reads what is in a folder.
func (m *meter) readDir(d *dir, mtime time.Time) error {
	old := d.dirs
	d.mtime, d.read, d.files, d.dirs, d.deep = mtime, time.Now(), 0, map[string]*dir{}, nil
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path, name := filepath.Join(d.path, e.Name()), filepath.Join(d.name, e.Name())
		switch {
		case name == "tmp", name == "locks": // work in progress
		case e.IsDir() && isDeep(name):
			d.deep = append(d.deep, name)
		case e.IsDir():
			if d.dirs[e.Name()] = old[e.Name()]; old[e.Name()] == nil {
				d.dirs[e.Name()] = &dir{name: name, path: path}
			}
		default:
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return &fs.PathError{Op: "stat", Path: path, Err: err}
			}
			d.files += st.Blocks * 512
		}
	}
	return nil
}

// isDeep reports whether programs write in the folder, or have.
func isDeep(name string) bool {
	parts := strings.Split(name, "/")
	switch parts[0] {
	case "layers":
		return len(parts) == 4 && snapshot.IsTree(parts[3])
	case "mounts":
		return len(parts) == 3
	}
	return false
}

// walk measures a deep folder, unless that was done since it was used.
func (m *meter) walk(name string) (int64, error) {
	state, _, _ := strings.Cut(name, "@") // a tree stays as it is when it was read back in another boot
	if strings.HasPrefix(name, "mounts/") {
		state = fmt.Sprint(name, " ", m.disk.Used(filepath.Dir(name)).UnixNano())
	}
	m.seen[state] = true
	if n, ok := m.deep[state]; ok {
		return n, nil
	}
	n, err := cache.DiskUsage(m.disk.Path(name))
	if err != nil {
		return 0, err
	}
	m.deep[state], m.news = n, true
	return n, nil
}

// save lets other processes know what was measured, and forgets what is not there any more.
func (m *meter) save() error {
	for state := range m.deep {
		if !m.seen[state] {
			delete(m.deep, state)
			m.news = true
		}
	}
	if !m.news {
		return nil
	}
	b, err := json.Marshal(m.deep)
	if err != nil {
		return err
	}
	m.news = false
	return m.disk.WriteFile(deepFile, append(b, '\n'))
}
