// Package userns moves this program into a user namespace of its own, once per
// build: a process with all capabilities there can then start any number of
// sandboxes without asking anybody for privilege again.
//
// It also says why a host does not allow this, and which command changes that.
// It knows nothing of what is done inside.
package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mode says where the privilege to make namespaces comes from.
type Mode int

// The modes, the most capable first.
const (
	// Root has CAP_SYS_ADMIN as uid 0 already: no user namespace is made.
	Root Mode = iota + 1
	// SubIDs maps the own uid to 0 and the ranges of /etc/subuid and /etc/subgid to
	// 1 and up, with the help of newuidmap and newgidmap.
	SubIDs
	// SingleID maps the own uid to 0 and nothing else; it needs no help.
	SingleID
	// Chroot is uid 0 that may make no namespace and mount nothing, as in a container: only
	// the root folder of a process can be changed. Enter has nothing to do for it.
	Chroot
)

// Modes returns all modes, the most capable first.
func Modes() []Mode { return []Mode{Root, SubIDs, SingleID, Chroot} }

var modeNames = map[Mode]string{Root: "root", SubIDs: "subids", SingleID: "single", Chroot: "chroot"}

// ParseMode returns the mode that String calls name.
func ParseMode(name string) (Mode, bool) {
	for m, s := range modeNames {
		if s == name {
			return m, true
		}
	}
	return 0, false
}

// String returns "root", "subids", "single" or "chroot".
func (m Mode) String() string {
	if s, ok := modeNames[m]; ok {
		return s
	}
	return "Mode(" + strconv.Itoa(int(m)) + ")"
}

// Detect returns the best mode that Check finds nothing wrong with, or the
// error of the last one. It starts no process.
func Detect() (Mode, error) {
	var err error
	for _, m := range []Mode{Root, SubIDs, SingleID} { // Chroot is for who has tried the others
		if err = Check(m); err == nil {
			return m, nil
		}
	}
	return 0, err
}

// Check looks, without starting a process, for a reason why mode m cannot work
// on this host, and returns it as a *HostError. A nil error is not a promise:
// some reasons only show in Enter.
func Check(m Mode) error {
	switch m {
	case Root:
		return checkRoot()
	case SubIDs:
		if err := checkNamespaces(); err != nil {
			return err
		}
		_, err := subIDs()
		return err
	case SingleID:
		return checkNamespaces()
	case Chroot:
		return checkChroot()
	}
	return fmt.Errorf("userns: %v is not a mode", m)
}

// marker is the environment variable that tells the inner process what it is.
const marker = "_BUILD_USERNS"

// Inside reports whether Enter started this process, and in which mode. What
// this process starts in turn is not inside, although it inherits the marker.
func Inside() (Mode, bool) {
	name, parent, _ := strings.Cut(os.Getenv(marker), ":")
	if parent != strconv.Itoa(os.Getppid()) {
		return 0, false
	}
	m, ok := ParseMode(name)
	// Anybody can set a variable. It must not make a process believe that it left the namespace of the host.
	if !ok || m != SubIDs && m != SingleID || os.Getuid() != 0 || initialNamespace() {
		return 0, false
	}
	return m, true
}

// initialNamespace reports whether this process is in the user namespace that the host began with. That one has the same number on
// every kernel (PROC_USER_INIT_INO); its map says nothing, since root can give that one to any namespace.
func initialNamespace() bool {
	name, err := os.Readlink("/proc/self/ns/user")
	return err != nil || name == "user:[4026531837]"
}

// environ returns the environment of the inner process.
func environ(m Mode) []string {
	env := make([]string, 0, len(os.Environ())+1)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, marker+"=") {
			env = append(env, kv)
		}
	}
	return append(env, fmt.Sprintf("%s=%v:%d", marker, m, os.Getpid()))
}

// Enter runs this program again, with the same arguments, standard streams and
// environment, as uid 0 with all capabilities in a new user and mount namespace,
// and returns its exit status when it has ended (128 + n for signal n). There,
// Inside reports true.
//
// Signals that ask this process to end are passed on, a cancelled ctx asks with
// SIGTERM, and the inner process does not survive this one. An error means that
// the inner process did not start; if the host is the reason, it is a *HostError.
func Enter(ctx context.Context, m Mode) (int, error) {
	ids, err := idMaps(m)
	if err != nil {
		return 0, err
	}
	p, err := start(ctx, m, ids, false)
	if err != nil {
		return 0, err
	}
	return p.wait(ctx)
}

func idMaps(m Mode) (maps, error) {
	switch m {
	case SubIDs:
		return subIDs()
	case SingleID:
		return singleID(), nil
	case Root, Chroot:
		return maps{}, fmt.Errorf("userns: %v needs no user namespace", m)
	}
	return maps{}, fmt.Errorf("userns: %v is not a mode", m)
}

// Probe finds out by trying whether mode m works on this host: it makes the namespaces, writes the id maps,
// and mounts something, in a child that does nothing else. A nil error promises that Enter will do as well. If the
// host is the reason for an error, it is a *HostError.
func Probe(ctx context.Context, m Mode) error {
	if err := Check(m); err != nil || m == Chroot {
		return err
	}
	var ids maps
	if m != Root {
		var err error
		if ids, err = idMaps(m); err != nil {
			return err
		}
	}
	p, err := start(ctx, m, ids, true)
	if err != nil {
		return err
	}
	_, err = p.wait(ctx)
	return err
}

func checkRoot() error {
	e := &HostError{What: "cannot make namespaces as root"}
	switch {
	case os.Geteuid() != 0:
		e.Cause = errors.New("this process is not uid 0")
		e.Hint = "run it with sudo"
	case !capable(unix.CAP_SYS_ADMIN):
		e.Cause = errors.New("this process has no CAP_SYS_ADMIN")
		e.Hint = "docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
	case foreignMounts():
		e.Cause = errors.New("the mounts here belong to another user namespace")
		e.Hint = "unshare --user --map-root-user --mount"
	default:
		return nil
	}
	return e
}

// foreignMounts reports whether the mount namespace of this process belongs to a user namespace above its own, as after
// "unshare --user": who is root there mounts nothing.
func foreignMounts() bool {
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	defer mounts.Close()
	owner, err := unix.IoctlRetInt(int(mounts.Fd()), unix.NS_GET_USERNS)
	if err == nil {
		unix.Close(owner)
	}
	return err == unix.EPERM
}

func checkChroot() error {
	if os.Geteuid() != 0 || !capable(unix.CAP_SYS_CHROOT) {
		return &HostError{
			What:  "cannot change the root folder",
			Cause: errors.New("this process is not uid 0 with CAP_SYS_CHROOT"),
			Hint:  "run as root, in a container that keeps CAP_SYS_CHROOT (docker run --cap-add SYS_CHROOT)",
		}
	}
	return nil
}

// capable reports whether this process has all of these capabilities.
func capable(caps ...uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}
