package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/collect"
	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/history"
	"github.com/seed0570efb0/build/internal/progress"
	"github.com/seed0570efb0/build/internal/userns"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// An app is one run of the command: the place where concrete types meet.
type app struct {
	stdio
	root      string // --root
	hosts     string // --registry-config
	isolation string // --isolation
	choice    choice // what enter made of it
	verifies  bool   // $BUILD_DEBUG has verify

	disk     *cache.Store
	layers   *snapshot.Store
	client   *source.Client
	images   *source.Images
	remote   *source.Remote
	executor *executor.Executor
	packer   *snapshot.Packer // of the build that is under way; nil when its outputs need no compressed layers

	collector *collect.Collector
	recorder  *history.Recorder // of the build that is under way

	display    *progress.Display
	dockerfile []byte // for excerpts in errors
}

// open opens the store.
func (a *app) open() error {
	if a.disk != nil {
		return nil
	}
	root, err := a.storeRoot()
	if err != nil {
		return err
	}
	if a.disk, err = cache.Open(root); err != nil {
		return err
	}
	a.client = source.NewClient(version())
	if a.client.Hosts, err = source.DefaultHosts(a.hosts); err != nil {
		return usagef("the manual says what is in it", "registry configuration: %w", fileError(err))
	}
	a.layers = snapshot.New(a.disk, a.client.Fetch)
	a.images = source.NewImages(a.disk, a.layers, a.client)
	a.remote = source.NewRemote(a.disk, a.layers, version(), buildID())
	a.collector = &collect.Collector{Disk: a.disk, Layers: a.layers, Images: a.images, Now: time.Now}
	a.executor = &executor.Executor{Layers: a.layers, Disk: a.disk, Remote: a.remote, Locals: map[string]snapshot.Tree{}, Warn: a.warn, Now: time.Now, Root: sandbox.RootOverlay}
	return nil
}

// storeRoot returns the folder of the store, absolute.
func (a *app) storeRoot() (string, error) {
	if a.root == "" {
		a.root = os.Getenv("BUILD_ROOT")
	}
	if a.root != "" {
		return filepath.Abs(a.root)
	}
	if _, inside := userns.Inside(); os.Geteuid() == 0 && !inside {
		return "/var/lib/build", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "build"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usagef("name the folder of the store with --root or $BUILD_ROOT", "the store has no place: %w", err)
	}
	return filepath.Join(home, ".local/share/build"), nil
}

// close gives up what this process relies on.
func (a *app) close() {
	if a.disk != nil {
		a.disk.Close()
	}
}

// show starts the display of progress and returns the function that ends it.
func (a *app) show(mode string) (func(), error) {
	d, err := progress.New(mode, a.err)
	if err != nil {
		return nil, &usageError{err: err}
	}
	a.display = d
	a.executor.Log = d.Log
	a.executor.Usage = func(v *llb.Vertex, u sandbox.Usage) {
		d.Use(v, progress.Usage(u))
		if a.recorder != nil {
			a.recorder.Use(v, history.Usage(u))
		}
	}
	a.client.Progress = pulls(d)
	a.remote.Progress = downloads(d)
	return d.Close, nil
}

// pulls shows the downloads of layers.
func pulls(d *progress.Display) func(b snapshot.Blob, done int64) {
	var mu sync.Mutex
	steps := map[string]*progress.Step{}
	return func(b snapshot.Blob, done int64) {
		mu.Lock()
		defer mu.Unlock()
		id := b.Digest.String()
		s, ok := steps[id]
		if !ok {
			s = d.Step("pulling " + id)
			steps[id] = s
		}
		s.Status("pulling", done, b.Size)
		if done >= b.Size {
			s.Done(nil)
		}
	}
}

// retryDamaged calls f again when it met something in the store that is damaged: what is damaged has been
// removed, and doing the work again makes it new. What is damaged a second time will stay so.
func (a *app) retryDamaged(f func() error) error {
	seen := map[string]bool{}
	for {
		err := f()
		var damaged *cache.DamagedError
		if !errors.As(err, &damaged) || seen[damaged.What] {
			return err
		}
		seen[damaged.What] = true
		a.warn(damaged.What + " is damaged; it is made again")
	}
}

// warn shows a warning, with the progress when there is any.
func (a *app) warn(text string) {
	if a.display != nil {
		a.display.Warn(text)
		return
	}
	fmt.Fprintf(a.err, "WARNING: %s\n", text)
}

// buildVersion is set by the linker for releases.
var buildVersion string

// version returns the version of this program: of its release, or of the commit it was built from.
var version = sync.OnceValue(func() string {
	if buildVersion != "" {
		return buildVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "0.0.0-" + s.Value[:12]
		}
	}
	return "0.0.0-devel"
})

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintf(a.stdio.out, "build %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
