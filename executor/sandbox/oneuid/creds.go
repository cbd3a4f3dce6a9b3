package oneuid

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// credsLimit is the resource limit whose soft value says which creds a process has: a number that
// the kernel hands to children at the moment of the fork, keeps across exec and forgets at the end. No
// table of processes could be as right: a process that we first hear of may have lost its parent
// long ago. It is the CPU time of real-time processes without a system call; there are none in a build.
const credsLimit = unix.RLIMIT_RTTIME

// creds are the users and groups of a process. They are never changed, only replaced.
type creds struct {
	uid, gid ids
	groups   []uint32
	keepCaps bool // PR_SET_KEEPCAPS
}

// ids are the ids of one kind, as in credentials(7).
type ids struct{ real, effective, saved, fs uint32 }

func newCreds(uid, gid uint32, groups []uint32) *creds {
	return &creds{uid: ids{uid, uid, uid, uid}, gid: ids{gid, gid, gid, gid}, groups: groups}
}

// capable reports whether the process has, or may regain, the capabilities of root.
func (c *creds) capable() bool { return c.uid.effective == 0 || c.keepCaps }

// member reports whether the process belongs to the group gid.
func (c *creds) member(gid uint32) bool { return c.gid.fs == gid || slices.Contains(c.groups, gid) }

// users are the creds of a sandbox: number n stands for list[n-1], all other numbers for the first.
type users struct {
	first  *creds
	list   []*creds
	number map[string]int
	groups int // of all in list
}

// What a sandbox can make us remember is bounded.
const (
	maxCreds  = 100_000
	maxGroups = 2_000_000
)

func (u *users) add(c *creds) (int, error) {
	key := fmt.Sprintf("%v", *c)
	if n, ok := u.number[key]; ok {
		return n, nil
	}
	if len(u.list) == maxCreds || u.groups+len(c.groups) > maxGroups {
		return 0, unix.EAGAIN
	}
	u.groups += len(c.groups)
	if u.number == nil {
		u.number = map[string]int{}
	}
	u.list = append(u.list, c)
	u.number[key] = len(u.list)
	return len(u.list), nil
}

// creds returns what the process is.
func (r *request) creds() *creds {
	var limit unix.Rlimit
	if err := unix.Prlimit(int(r.pid), credsLimit, nil, &limit); err != nil {
		return r.users.first // it has been killed
	}
	if n := limit.Cur; n > 0 && n <= uint64(len(r.users.list)) {
		return r.users.list[n-1]
	}
	return r.users.first
}

// become makes the process another one.
func (r *request) become(c creds) error {
	n, err := r.users.add(&c)
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(int(r.pid), credsLimit, nil, &limit); err != nil {
		return err
	}
	if err := r.alive(); err != nil {
		return err
	}
	limit.Cur = uint64(n)
	return unix.Prlimit(int(r.pid), credsLimit, &limit, nil)
}

// change sets an id, unless the new one is -1.
func change(x *uint32, id uint32) {
	if id != none {
		*x = id
	}
}

// among reports whether id is -1 or one of list.
func among(id uint32, list ...uint32) bool { return id == none || slices.Contains(list, id) }

// set is setuid(2). may says that the process is privileged. The result is false for EPERM.
func (x *ids) set(id uint32, may bool) bool {
	switch {
	case may:
		*x = ids{id, id, id, id}
	case id == x.real || id == x.saved:
		x.effective, x.fs = id, id
	default:
		return false
	}
	return true
}

// setre is setreuid(2).
func (x *ids) setre(real, effective uint32, may bool) bool {
	if !may && (!among(real, x.real, x.effective) || !among(effective, x.real, x.effective, x.saved)) {
		return false
	}
	old := *x
	change(&x.real, real)
	change(&x.effective, effective)
	if real != none || effective != none && effective != old.real {
		x.saved = x.effective
	}
	x.fs = x.effective
	return true
}

// setres is setresuid(2).
func (x *ids) setres(real, effective, saved uint32, may bool) bool {
	for _, id := range []uint32{real, effective, saved} {
		if !may && !among(id, x.real, x.effective, x.saved) {
			return false
		}
	}
	change(&x.real, real)
	change(&x.effective, effective)
	change(&x.saved, saved)
	x.fs = x.effective
	return true
}

func uids(c *creds) *ids { return &c.uid }
func gids(c *creds) *ids { return &c.gid }

// setter returns the handler of a call that changes ids of a kind.
func setter(kind func(*creds) *ids, set func(x *ids, r *request, may bool) bool) handler {
	return func(r *request) reply {
		old := r.creds()
		c := *old
		if !set(kind(&c), r, old.capable()) {
			return fail(unix.EPERM)
		}
		return end(r.become(c))
	}
}

// setfs is setfsuid(2), which returns the id before and never fails.
func (r *request) setfs(kind func(*creds) *ids) reply {
	c := *r.creds()
	x := kind(&c)
	old, id := x.fs, r.id(0)
	if id != none && (c.capable() || among(id, x.real, x.effective, x.saved, x.fs)) {
		x.fs = id
		r.become(c)
	}
	return value(old)
}

func (r *request) keepCaps() reply {
	if c := *r.creds(); r.args[1] <= 1 && c.keepCaps != (r.args[1] == 1) {
		c.keepCaps = r.args[1] == 1 && c.capable()
		if err := r.become(c); err != nil {
			return fail(err)
		}
	}
	return proceed
}

func (r *request) getres(x ids) reply {
	for i, id := range []uint32{x.real, x.effective, x.saved} {
		if err := r.write(r.args[i], binary.NativeEndian.AppendUint32(nil, id)); err != nil {
			return fail(err)
		}
	}
	return value(0)
}

func (r *request) getgroups() reply {
	list := r.creds().groups
	size := r.int(0)
	switch {
	case size == 0:
	case size < len(list):
		return fail(unix.EINVAL)
	default:
		b, _ := binary.Append(nil, binary.NativeEndian, list)
		if err := r.write(r.args[1], b); err != nil {
			return fail(err)
		}
	}
	return value(uint32(len(list)))
}

func (r *request) setgroups() reply {
	const most = 65536 // NGROUPS_MAX
	c := *r.creds()
	n := r.int(0)
	switch {
	case !c.capable():
		return fail(unix.EPERM)
	case n < 0 || n > most:
		return fail(unix.EINVAL)
	}
	b := make([]byte, 4*n)
	if err := r.read(r.args[1], b); err != nil {
		return fail(err)
	}
	c.groups = make([]uint32, n)
	binary.Decode(b, binary.NativeEndian, c.groups)
	slices.Sort(c.groups) // as the kernel does
	return end(r.become(c))
}

// umask returns the umask of the process.
func (r *request) umask() (uint32, error) {
	b, err := os.ReadFile(r.proc("status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32)
			return uint32(n), err
		}
	}
	return 0, unix.EIO
}
