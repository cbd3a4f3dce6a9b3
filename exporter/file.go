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
	if target, err := filepath.EvalSymlinks(dest); err == nil {
		dest = target
	}
	fi, err := os.Stat(dest)
	switch {
	case err == nil && fi.IsDir():
		return fmt.Errorf("%s is a folder, and a file is to be written", dest)
	case err == nil && !fi.Mode().IsRegular():
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
