package oneuid

import (
	"testing"

	"github.com/seed0570efb0/build/internal/owners"
)

func TestIDs(t *testing.T) {
	root, user := ids{}, ids{1000, 1000, 1000, 1000}
	half := ids{1000, 0, 0, 0} // a program that is set-user-ID root
	for _, c := range []struct {
		name  string
		start ids
		call  func(*ids, bool) bool
		want  ids
		ok    bool
	}{
		{"root becomes a user", root, func(x *ids, may bool) bool { return x.set(5, may) }, ids{5, 5, 5, 5}, true},
		{"a user stays", user, func(x *ids, may bool) bool { return x.set(0, may) }, user, false},
		{"itself", user, func(x *ids, may bool) bool { return x.set(1000, may) }, user, true},
		{"back to the saved one", ids{1000, 1000, 0, 1000}, func(x *ids, may bool) bool { return x.set(0, may) }, ids{1000, 0, 0, 0}, true},
		{"setreuid swaps", ids{1000, 5, 5, 5}, func(x *ids, may bool) bool { return x.setre(5, 1000, may) }, ids{5, 1000, 1000, 1000}, true},
		{"setreuid, effective only", root, func(x *ids, may bool) bool { return x.setre(none, 7, may) }, ids{0, 7, 7, 7}, true},
		{"setreuid to the real one keeps the saved", ids{1, 2, 3, 2}, func(x *ids, may bool) bool { return x.setre(none, 1, may) }, ids{1, 1, 3, 1}, true},
		{"setreuid, real only to real or effective", ids{1, 2, 3, 2}, func(x *ids, may bool) bool { return x.setre(3, none, may) }, ids{1, 2, 3, 2}, false},
		{"setreuid, nothing", half, func(x *ids, may bool) bool { return x.setre(none, none, may) }, half, true},
		{"setresuid", root, func(x *ids, may bool) bool { return x.setres(1, 2, 3, may) }, ids{1, 2, 3, 2}, true},
		{"setresuid drops for good", half, func(x *ids, may bool) bool { return x.setres(1000, 1000, 1000, may) }, user, true},
		{"setresuid among its own", ids{1, 2, 3, 2}, func(x *ids, may bool) bool { return x.setres(3, 1, none, may) }, ids{3, 1, 3, 1}, true},
		{"setresuid to another", ids{1, 2, 3, 2}, func(x *ids, may bool) bool { return x.setres(none, 4, none, may) }, ids{1, 2, 3, 2}, false},
	} {
		x := c.start
		if ok := c.call(&x, x.effective == 0); ok != c.ok || x != c.want {
			t.Errorf("%s: got %+v, %v; want %+v, %v", c.name, x, ok, c.want, c.ok)
		}
	}
}

func TestUsers(t *testing.T) {
	var u users
	a, _ := u.add(newCreds(1, 2, []uint32{3}))
	b, _ := u.add(newCreds(1, 2, nil))
	again, _ := u.add(newCreds(1, 2, []uint32{3}))
	if a != 1 || b != 2 || again != a {
		t.Errorf("got %d, %d, %d", a, b, again)
	}
}

func TestMayWrite(t *testing.T) {
	c := newCreds(1000, 1001, []uint32{2000})
	root := newCreds(0, 0, nil)
	for _, x := range []struct {
		uid, gid, mode uint32
		want           bool
	}{
		{1000, 0, 0o700, true}, {1000, 0, 0o577, false}, {0, 2000, 0o730, true}, {0, 1001, 0o707, false},
		{0, 0, 0o1777, true}, {0, 0, 0o775, false},
	} {
		m := owners.Mark{UID: x.uid, GID: x.gid}
		if got := c.mayWrite(m, x.mode); got != x.want {
			t.Errorf("%+v: got %v", x, got)
		}
		if !root.mayWrite(m, x.mode) {
			t.Errorf("%+v: root may not", x)
		}
	}
}
