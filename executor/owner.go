package executor

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// maxUserFile is how large /etc/passwd and /etc/group of an image may be.
const maxUserFile = 16 << 20

// owner resolves an owner against the file system as it was before the step. A name that is
// not there means 0, as on BuildKit: images are built that rely on it.
func (f *filer) owner(o *llb.Owner) (uid, gid int, err error) {
	if o == nil {
		return 0, 0, nil
	}
	name, group, hasGroup := strings.Cut(o.Text, ":")
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		uid, gid = int(n), int(n)
	} else if name != "" {
		users, err := f.users()
		if err != nil {
			return 0, 0, err
		}
		for _, u := range users {
			if u.Name == name {
				uid, gid = u.Uid, u.Gid
				break
			}
		}
	}
	if !hasGroup || group == "" {
		return uid, gid, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return uid, int(n), nil
	}
	groups, err := f.groups()
	for _, g := range groups {
		if g.Name == group {
			return uid, g.Gid, nil
		}
	}
	return uid, gid, err
}

// errNoUsers has the text that users of BuildKit know.
var errNoUsers = errors.New("invalid user index: -1: a name needs a base with /etc/passwd; name the owner by number")

func (f *filer) users() ([]user.User, error) {
	b, err := f.userFile("etc/passwd")
	if err != nil {
		return nil, err
	}
	return user.ParsePasswd(bytes.NewReader(b))
}

func (f *filer) groups() ([]user.Group, error) {
	b, err := f.userFile("etc/group")
	if err != nil {
		return nil, err
	}
	return user.ParseGroup(bytes.NewReader(b))
}

// userFile reads a file of the base that says which users there are.
func (f *filer) userFile(name string) ([]byte, error) {
	if f.base.Empty() {
		return nil, errNoUsers
	}
	b, _, err := snapshot.ReadFile(f.base, name, maxUserFile)
	return b, err
}

// execUser returns the ids that the text of USER means in the root file system t, with the
// rules of container runtimes: a number needs no entry, a name does.
func execUser(t snapshot.Tree, text string) (*user.ExecUser, error) {
	passwd, _, err := snapshot.ReadFile(t, "etc/passwd", maxUserFile)
	if err != nil {
		return nil, err
	}
	group, _, err := snapshot.ReadFile(t, "etc/group", maxUserFile)
	if err != nil {
		return nil, err
	}
	return user.GetExecUser(text, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
}
