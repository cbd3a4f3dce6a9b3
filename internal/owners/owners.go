// Package owners keeps the owners of files, and what devices are, where the kernel
// cannot: in a user namespace that has one id only, everything belongs to that id.
//
// Files and folders carry a mark, an extended attribute, that says what they should be. A device
// is an empty file with a mark. What can carry none (symbolic links, pipes) is for others to remember.
package owners

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Xattr is the name of the mark. It is of the namespace that ordinary users can write, and that
// overlayfs copies when it copies a file up.
const Xattr = "user.build.owner"

// A Mark says what a file should be.
type Mark struct {
	UID, GID uint32
	// Type is unix.S_IFCHR or unix.S_IFBLK for a device, otherwise 0.
	Type         uint32
	Major, Minor uint32 // of a device
}

// IsZero reports whether m says nothing: the owner is root and the file is what it is.
func (m Mark) IsZero() bool { return m == Mark{} }

// String returns m as the attribute holds it: "1000:100", with "c 1:3" or "b 8:0" for devices.
func (m Mark) String() string {
	owner := fmt.Sprintf("%d:%d", m.UID, m.GID)
	switch m.Type {
	case unix.S_IFCHR:
		return fmt.Sprintf("%s c %d:%d", owner, m.Major, m.Minor)
	case unix.S_IFBLK:
		return fmt.Sprintf("%s b %d:%d", owner, m.Major, m.Minor)
	}
	return owner
}

// Parse reads what String returned.
func Parse(text string) (m Mark, err error) {
	owner, device, isDevice := strings.Cut(text, " ")
	if m.UID, m.GID, err = pair(owner); err != nil || !isDevice {
		return m, err
	}
	kind, number, _ := strings.Cut(device, " ")
	switch kind {
	case "c":
		m.Type = unix.S_IFCHR
	case "b":
		m.Type = unix.S_IFBLK
	default:
		return m, fmt.Errorf("mark %q: no device is of type %q", text, kind)
	}
	m.Major, m.Minor, err = pair(number)
	return m, err
}

func pair(text string) (a, b uint32, err error) {
	first, second, ok := strings.Cut(text, ":")
	if !ok {
		return 0, 0, fmt.Errorf("mark: %q is not a pair of numbers", text)
	}
	x, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("mark: %w", err)
	}
	y, err := strconv.ParseUint(second, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("mark: %w", err)
	}
	return uint32(x), uint32(y), nil
}

// Read returns the mark of the file at path, following links: a path of /proc/PID/fd leads to the
// file that is open there, whatever it is. A file without a mark, or with one that nobody can read, has the zero Mark.
func Read(path string) Mark {
	var b [64]byte
	n, err := unix.Getxattr(path, Xattr, b[:])
	if err != nil {
		return Mark{}
	}
	m, err := Parse(string(b[:n]))
	if err != nil {
		return Mark{}
	}
	return m
}

// Write gives the file at path, as for Read, the mark m.
func Write(path string, m Mark) error {
	if !m.IsZero() {
		return unix.Setxattr(path, Xattr, []byte(m.String()), 0)
	}
	err := unix.Removexattr(path, Xattr)
	if err == unix.ENODATA {
		return nil
	}
	return err
}

// Chown gives a file to a user and a group: the kernel has them, or a mark does. The path is as for Read.
func Chown(path string, uid, gid int) error {
	if OneID() {
		return Write(path, Mark{UID: uint32(uid), GID: uint32(gid)})
	}
	return os.Chown(path, uid, gid)
}

// OneID reports whether this process can give files to nobody but one user, since its user
// namespace has one id only.
var OneID = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && oneID(string(b))
})

func oneID(uidMap string) bool {
	f := strings.Fields(uidMap)
	return len(f) == 3 && f[2] == "1"
}
