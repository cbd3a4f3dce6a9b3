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
// store are never written in place. Folders in which programs write whatever they like, the trees of layers and cache
// mounts, are walked once and remembered, by all processes.
type meter struct {
	disk *cache.Store
	last int64 // what total gave
	dirs map[string]*dir
	deep map[string]int64 // what deep folders take, by name and state
	seen map[string]bool  // those that are there
	news bool             // deep is not on disk as it is
}

// A dir is a folder as it was read.
type dir struct {
	mtime, read time.Time
	files       int64 // what its files take
	dirs        []string
}

// tick is how long a folder may change without a change of its time: the clocks of file systems are not finer.
const tick = 50 * time.Millisecond

// deepFile remembers what deep folders take.
const deepFile = "sizes"

func newMeter(disk *cache.Store) *meter {
	m := &meter{disk: disk, dirs: map[string]*dir{}, deep: map[string]int64{}, seen: map[string]bool{}}
	if b, err := disk.ReadFile(deepFile); err == nil && json.Unmarshal(b, &m.deep) != nil {
		m.deep = map[string]int64{} // damaged: measured again
	}
	return m
}

// total returns what the store takes of the disk, without what is being made.
func (m *meter) total() (int64, error) {
	clear(m.seen)
	n, err := m.bytes(".")
	m.last = n
	return n, err
}

// bytes returns what a file or folder of the store takes, with all in it.
func (m *meter) bytes(name string) (int64, error) {
	if isDeep(name) {
		return m.walk(name)
	}
	var st unix.Stat_t
	switch err := unix.Lstat(m.disk.Path(name), &st); {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, &fs.PathError{Op: "stat", Path: m.disk.Path(name), Err: err}
	}
	total := st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return total, nil
	}
	d, err := m.dir(name, time.Unix(st.Mtim.Unix()))
	if err != nil {
		return 0, err
	}
	total += d.files
	for _, sub := range d.dirs {
		if name == "." && (sub == "tmp" || sub == "locks") {
			continue
		}
		n, err := m.bytes(filepath.Join(name, sub))
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// dir returns what is in a folder, and reads it when it has changed.
func (m *meter) dir(name string, mtime time.Time) (*dir, error) {
	if d := m.dirs[name]; d != nil && d.mtime.Equal(mtime) && d.read.Sub(mtime) > tick {
		return d, nil
	}
	d := &dir{mtime: mtime, read: time.Now()}
	entries, err := os.ReadDir(m.disk.Path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			d.dirs = append(d.dirs, e.Name())
			continue
		}
		var st unix.Stat_t
		err := unix.Lstat(m.disk.Path(name, e.Name()), &st)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &fs.PathError{Op: "stat", Path: m.disk.Path(name, e.Name()), Err: err}
		}
		d.files += st.Blocks * 512
	}
	m.dirs[name] = d
	return d, nil
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
