package exporter

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// create lets write fill the file dest, or standard output when dest is "-". The file gets its name when it is whole:
// an error leaves what was there before. What is no regular file, like a pipe, is written to as it is.
func (x *Exporter) create(ctx context.Context, dest string, write func(io.Writer) error) error {
	if dest == "-" {
		if x.Stdout == nil {
			return errors.New("there is no standard output to write to")
		}
		return buffered(ctx, x.Stdout, write)
	}
	dest, kind, err := place(dest)
	if err != nil {
		return err
	}
	if kind != 0 {
		f, err := os.OpenFile(dest, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(buffered(ctx, f, write), f.Close())
	}
	tmp := filepath.Join(filepath.Dir(dest), "."+filepath.Base(dest)+"."+rand.Text()[:8])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666) // less the umask, as for any program
	if err != nil {
		return renamed(err, tmp, dest)
	}
	defer os.Remove(tmp)
	err = buffered(ctx, f, write)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return renamed(err, tmp, dest)
	}
	return os.Rename(tmp, dest)
}

// place returns where dest leads to, and the type of the file that is there: 0 for a regular one, or none yet.
func place(dest string) (string, fs.FileMode, error) {
	if target, err := filepath.EvalSymlinks(dest); err == nil {
		dest = target
	}
	fi, err := os.Stat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dest, 0, nil
	case err != nil:
		return dest, 0, err
	case fi.IsDir():
		return dest, 0, fmt.Errorf("%s is a folder, and a file is to be written", dest)
	}
	return dest, fi.Mode().Type(), nil
}

// WriteFile writes a small file as outputs are written: it is there as a whole, or what was there before.
func WriteFile(ctx context.Context, dest string, data []byte) error {
	return (&Exporter{}).create(ctx, dest, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// CheckFile says early what would keep a file from being written to dest after the build.
func CheckFile(dest string) error {
	at, kind, err := place(dest)
	if err != nil {
		return err
	}
	if kind != 0 {
		return nil // what a pipe takes, it tells when it is written to
	}
	dir := filepath.Dir(at)
	err = unix.Access(dir, unix.W_OK|unix.X_OK)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder of %s does not exist", dest)
	case err != nil:
		return fmt.Errorf("no file can be made in the folder %s: %w", dir, err)
	}
	return nil
}

// renamed makes an error about the temporary file one about the file that was asked for.
func renamed(err error, tmp, dest string) error {
	var e *fs.PathError
	if errors.As(err, &e) && e.Path == tmp {
		return &fs.PathError{Op: e.Op, Path: dest, Err: e.Err}
	}
	return err
}

func buffered(ctx context.Context, w io.Writer, write func(io.Writer) error) error {
	out := bufio.NewWriterSize(cancelled{ctx, w}, 256<<10)
	if err := write(out); err != nil {
		return err
	}
	return out.Flush()
}

// cancelled ends writing with its context.
type cancelled struct {
	ctx context.Context
	w   io.Writer
}

func (c cancelled) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
