package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Probe finds out by trying what can be had here: it sets a sandbox up, of empty folders that it makes in dir, up to
// the program, which is missing. A nil error promises that a sandbox with that kind of root works.
func Probe(ctx context.Context, dir string, kind RootKind) error {
	spec := Spec{
		Args: []string{"/probe"}, Cwd: "/", Hostname: "probe", Network: NetworkHost,
		Root: Root{Lower: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Target: filepath.Join(dir, "root")},
	}
	for _, d := range append(spec.Root.Lower, spec.Root.Upper, spec.Root.Work, spec.Root.Target) {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if kind != RootOverlay {
		spec.Root = Root{Flat: spec.Root.Lower[0], Target: spec.Root.Target}
	}
	spec.Chroot = kind == RootChroot
	_, err := Run(ctx, spec, Stdio{})
	var missing *ExecError
	if errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A RootKind is a way to make the root file system of a sandbox.
type RootKind string

// The kinds, the best first.
const (
	RootOverlay RootKind = "overlay" // layers and what is changed stay apart
	RootFlat    RootKind = "flat"    // a copy of all files, in namespaces
	RootChroot  RootKind = "chroot"  // the same without namespaces or mounts
)
