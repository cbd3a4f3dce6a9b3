package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Who may not make devices, as in a user namespace, can use images that hold some.
func TestDevicesThatCannotBeMadeAreLeftOut(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners are set")
	}
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its capability lost
		done <- func() error {
			if err := dropMknod(); err != nil {
				return err
			}
			x, err := newExtractor(dir)
			if err != nil {
				return err
			}
			defer x.Close()
			for _, e := range []Entry{{Path: "dev/console", Type: Char, Major: 5, Minor: 1}, {Path: "dev/p", Type: Fifo}} {
				if err := x.entry(&e, nil); err != nil {
					return err
				}
			}
			return errors.Join(x.hide([]Entry{{Path: "dev/gone", Type: Whiteout}}), x.finish())
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(dir + "/dev/*")
	if len(names) != 2 {
		t.Errorf("made: %v, want the whiteout and the fifo", names)
	}
}

func dropMknod() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_MKNOD
	return unix.Capset(&header, &data[0])
}
