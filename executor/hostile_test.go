package executor_test

import (
	"slices"
	"strings"
	"testing"
)

// A step may leave anything behind that a file system takes. It gets a layer, the same in every mode, and
// what it was made in can be removed.
func TestHostileFiles(t *testing.T) {
	needRoot(t)
	const settle = "; cd /; find /w -depth -print0 | xargs -0 touch -h -d '2000-01-01 00:00:00'"
	j := job{Base: busyboxTar(t), Steps: []step{
		{"", `busybox mkdir -p /w/closed/in; echo x > /w/closed/in/f; chmod 000 /w/closed/in/f /w/closed/in /w/closed` + settle},
		{"", `cd /w; touch -- "$(printf 'new\nline')" "$(printf 'tab\tq\\"')" "$(printf '\377\376')" ' ' '*' '-rf' '.wh' 'a.wh.b'` + settle},
		// 4,200 characters in one path, which no call takes as a whole.
		{"", `n=$(printf '%0200d' 0); for top in a b; do p=/w/$top; mkdir $p; for i in 1 2 3 4 5 6 7 8 9 10 11; do p=$p/$n; mkdir $p; done; done
			echo deep > $p/f; touch -d '2000-01-01 00:00:00' $p/f; while [ $p != /w/b ]; do p=${p%/*}; touch -d '2000-01-01 00:00:00' $p/$n; done
			p=/w/a; for i in 1 2 3 4 5 6 7 8 9 10 11; do p=$p/$n; done; touch -d '2000-01-01 00:00:00' /w/b; mv /w/b $p/b; while [ $p != /w/a ]; do touch -d '2000-01-01 00:00:00' $p; p=${p%/*}; done; touch -d '2000-01-01 00:00:00' $p /w`},
		{"", `busybox truncate -s 64M /w/sparse; i=0; while [ $i -lt 200 ]; do ln /w/sparse /w/hard$i; i=$((i+1)); done` + settle},
		{"", `(setsid sleep 1000 > /dev/null 2>&1 &); (trap '' TERM; sleep 1000) > /dev/null 2>&1 & echo $$ > /dev/null`},
		{"1000", `cd /home/app 2> /dev/null; id -u`},
	}}
	for i := range j.Steps {
		j.Steps[i].Script = `setsid() { busybox setsid "$@"; }; sleep() { busybox sleep "$@"; }; printf() { busybox printf "$@"; }; tr() { busybox tr "$@"; }; ` + j.Steps[i].Script
	}
	want := inMode(t, "root", j)
	if deep := want.Entries[2]; !slices.ContainsFunc(deep, func(e string) bool { return len(e) > 4200 && strings.Contains(e, "/f ") }) {
		t.Errorf("the deepest file is not in the layer: %d entries", len(deep))
	}
	for _, mode := range []string{"subids", "single"} {
		t.Run(mode, func(t *testing.T) {
			got := inMode(t, mode, j)
			if !slices.Equal(got.DiffIDs, want.DiffIDs) {
				t.Errorf("the layers differ: %v, %v", got.DiffIDs, want.DiffIDs)
			}
		})
	}
}
