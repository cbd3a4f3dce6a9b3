// Package cache is the store on disk: an index from key to result, blobs by
// digest, small named records, and the locks and temporary folders that let
// any number of processes share one store without a daemon.
//
// It knows nothing of graphs, images or Dockerfiles: a key is 32 bytes whose
// meaning is someone else's business. Whatever is written gets a temporary
// name first and is renamed when it is whole, so a killed process leaves
// nothing that is half there. What cannot be read back is a miss.
package cache

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// version is the layout of the store. A store of another version is refused, not migrated.
const version = "1\n"

// A Store is a folder shared by any number of processes.
type Store struct {
	root  string
	fresh sync.Map // digest.Digest -> true: blobs that were written, and hashed, through this Store
	desk  desk
}

// A StoreError says that the store as a whole cannot be used, and what to do.
type StoreError struct {
	Root string
	Err  error
	Hint string
}

func (e *StoreError) Error() string { return fmt.Sprintf("store %s: %v", e.Root, e.Err) }
func (e *StoreError) Unwrap() error { return e.Err }

// Open opens the store at root and makes it where it is missing.
func Open(root string) (*Store, error) {
	s := &Store{root: root}
	if b, err := readFile(s.path("version")); err == nil && len(bytes.Trim(b, "\x00")) > 0 { // a power cut may have emptied it
		if string(b) != version {
			return nil, &StoreError{root, fmt.Errorf("layout %q is not the %q of this program", strings.TrimSpace(string(b)), strings.TrimSpace(version)),
				"name another folder with --root"}
		}
		return s, s.writable()
	}
	for _, d := range []string{"blobs/sha256", "index", "locks", "tmp"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, s.explain(err)
		}
	}
	if err := s.WriteFile("version", []byte(version)); err != nil {
		s.Close()
		return nil, s.explain(err)
	}
	return s, nil
}

func (s *Store) writable() error {
	if err := syscall.Access(s.path("tmp"), 2|1); err != nil {
		return s.explain(&fs.PathError{Op: "access", Path: s.path("tmp"), Err: err})
	}
	return nil
}

func (s *Store) explain(err error) error {
	e := &StoreError{Root: s.root, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = "the disk is full: free some space, or name another folder with --root"
	default:
		e.Hint = "name a folder you may write to with --root or $BUILD_ROOT"
	}
	return e
}

// Root returns the folder.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// WriteFile writes a file of the store, named relative to it, so that it is
// there as a whole or not at all, unless the machine goes down: then it may be cut or empty, and what it replaced gone.
func (s *Store) WriteFile(name string, data []byte) error {
	return s.writeFile(name, func(f *os.File) error { return writeAll(f, data) })
}

// WriteStream is WriteFile for what write writes, which need not be in memory as a whole.
func (s *Store) WriteStream(name string, write func(w io.Writer) error) error {
	return s.writeFile(name, func(f *os.File) error {
		out := bufio.NewWriterSize(f, 64<<10)
		if err := write(out); err != nil {
			return err
		}
		return out.Flush()
	})
}

// WriteLasting is WriteFile for what nobody can make again: whenever the machine goes down, there is the file or what it
// replaced.
func (s *Store) WriteLasting(name string, data []byte) error {
	return s.writeFile(name, func(f *os.File) error {
		if err := writeAll(f, data); err != nil {
			return err
		}
		return f.Sync()
	})
}

func writeAll(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return err
}

func (s *Store) writeFile(name string, write func(*os.File) error) error {
	dir, err := s.desk.folder(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir.Path, "w-")
	if err != nil {
		return err
	}
	err = write(f)
	if err1 := f.Close(); err == nil {
		err = err1
	}
	if err == nil {
		err = s.publish(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// publish renames a temporary file or folder to its place, whose parent is made when missing.
func (s *Store) publish(tmp, name string) error {
	dst := s.path(name)
	err := os.Rename(tmp, dst)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dst), 0o700); err == nil {
			err = os.Rename(tmp, dst)
		}
	}
	return err
}

// ReadFile reads a file of the store, named relative to it.
func (s *Store) ReadFile(name string) ([]byte, error) { return readFile(s.path(name)) }

// Path returns the path of a name relative to the store, or of one below it.
func (s *Store) Path(name ...string) string { return s.path(name...) }
