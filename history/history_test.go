package history

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

func open(t testing.TB) *Log {
	t.Helper()
	disk, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Open(disk)
}

func nothing(string) bool { return false }

// ops are operations with every field set.
func ops() []llb.Op {
	epoch := int64(1)
	return []llb.Op{
		&llb.Image{Layers: []digest.Digest{{1}, {2}}},
		&llb.Local{Name: "context", Exclude: []string{"a", "b"}},
		&llb.HTTP{URL: "https://h/f?q", Filename: "f", Checksum: digest.Digest{1}},
		&llb.Git{Remote: "https://u:p@h/r.git", Ref: "r", Subdir: "s", Checksum: "c", KeepGitDir: true, SkipSubmodules: true, FetchByCommit: true, CheckoutTime: true},
		&llb.Exec{Args: []string{"sh", "-c", "a"}, Env: []string{"A=1", "B_TOKEN=2"}, Cwd: "/", User: "u", Network: llb.NetworkNone, Hostname: "h",
			Hosts: []llb.Host{{Name: "n", IP: "::1"}}, Mounts: []llb.Mount{
				{Type: llb.MountBind, Target: "/b", From: 1, Source: "/s", ReadOnly: true},
				{Type: llb.MountCache, Target: "/c", ID: "c", Sharing: llb.SharingLocked, Access: &llb.Access{Mode: 0o700, UID: 1, GID: 2}},
				{Type: llb.MountTmpfs, Target: "/t", Size: 1},
				{Type: llb.MountSecret, Target: "/s", ID: "s", Required: true, Env: "S", Access: &llb.Access{}},
			}},
		&llb.File{Actions: []llb.Action{
			&llb.Copy{From: 1, Sources: []llb.Source{{Path: "/a", Wildcard: true, Include: "i", Required: true}}, Exclude: []string{"e"},
				Dest: "/d", Owner: &llb.Owner{Text: "1:2"}, Mode: "0640", Unpack: true},
			&llb.Mkdir{Path: "/m", Mode: 0o755, Owner: &llb.Owner{Text: "x"}, Time: &epoch},
			&llb.Mkfile{Path: "/f", Mode: 0o644, Data: []byte("d"), Time: &epoch},
		}},
	}
}

// Whatever counts of an operation is in its fields: a change of it has a name.
func TestEveryFieldHasAName(t *testing.T) {
	for n := range ops() {
		old := ops()[n]
		var paths []string
		testkit.Leaves(reflect.ValueOf(old), reflect.TypeOf(old).String(), func(p string, _ reflect.Value) { paths = append(paths, p) })
		for _, path := range paths {
			op := ops()[n]
			testkit.Leaves(reflect.ValueOf(op), reflect.TypeOf(op).String(), func(p string, v reflect.Value) {
				if p == path {
					testkit.Change(t, v)
				}
			})
			if llb.OpDigest(op) == llb.OpDigest(old) {
				continue // where it comes from
			}
			text := fieldsCause(describe(op, nothing), describe(old, nothing))
			if text == "the instruction changed" {
				t.Errorf("%s: its change has no name", path)
			}
			if strings.Contains(text, "p@") || strings.Contains(text, "TOKEN 2") || strings.Contains(text, "?q") {
				t.Errorf("%s: %q shows what is secret", path, text)
			}
		}
	}
}

func TestFieldsCause(t *testing.T) {
	for _, c := range []struct{ old, now, want string }{
		{"argument VERSION=1.2", "argument VERSION=1.3", "argument VERSION 1.2 -> 1.3"},
		{"command=make", "command=make all", `command make -> "make all"`},
		{"variable A=1", "variable A=1|variable B=", `variable B is "" now`},
		{"variable A=1|variable B=2", "variable A=1", "no variable B any more"},
		{"USER=", "USER=www", "USER is www now"},
		{"USER=www", "USER=", "USER is not www any more"},
		{"digest=sha256:" + strings.Repeat("a", 64) + "|layers=x", "digest=sha256:" + strings.Repeat("b", 64) + "|layers=y", "digest sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb"},
		{"command=" + strings.Repeat("x", 60) + "1", "command=" + strings.Repeat("x", 60) + "2", "command …xxxxxxxxxx1 -> …xxxxxxxxxx2"},
		{"a=1|b=1|c=1|d=1|e=1", "a=2|b=2|c=2|d=2|e=2", "a 1 -> 2, b 1 -> 2, c 1 -> 2, 2 more changed"},
		{order + "=A B", order + "=B A", order + " changed"},
		{order + "=A B|x=1", order + "=B A|x=2", "x 1 -> 2"},
	} {
		parse := func(text string) (list []Field) {
			for kv := range strings.SplitSeq(text, "|") {
				k, v, _ := strings.Cut(kv, "=")
				list = append(list, Field{Name: k, Value: v})
			}
			return list
		}
		if got := fieldsCause(parse(c.now), parse(c.old)); got != c.want {
			t.Errorf("%s -> %s: %q, want %q", c.old, c.now, got, c.want)
		}
	}
}

// steps returns a graph of one stage, of texts; a text with a colon names its stage.
func steps(texts ...string) *Graph {
	g := &Graph{}
	for i, text := range texts {
		stage, rest, ok := strings.Cut(text, ":")
		if !ok {
			stage, rest = "s", text
		}
		kind, _, _ := strings.Cut(rest, " ")
		g.Steps = append(g.Steps, Step{
			ID: digest.Of(fmt.Appendf(nil, "%p %d", g, i)), Kind: Kind(kind), Label: fmt.Sprintf("[%s %d/%d] %s", stage, i+1, len(texts), rest),
		})
	}
	return g
}

func TestPair(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, now []string
		want     []int
	}{
		{"the same", []string{"RUN a", "COPY b"}, []string{"RUN a", "COPY b"}, []int{0, 1}},
		{"a changed text", []string{"RUN a", "RUN b", "RUN c"}, []string{"RUN a", "RUN x", "RUN c"}, []int{0, 1, 2}},
		{"inserted", []string{"RUN a", "RUN c"}, []string{"RUN a", "RUN b", "RUN c"}, []int{0, -1, 1}},
		{"removed", []string{"RUN a", "RUN b", "RUN c"}, []string{"RUN a", "RUN c"}, []int{0, 2}},
		{"by kind", []string{"COPY a", "RUN a"}, []string{"RUN b"}, []int{1}},
		{"twice", []string{"RUN a", "RUN a"}, []string{"RUN a", "RUN a", "RUN a"}, []int{0, 1, -1}},
		{"stages apart", []string{"x:RUN a", "y:RUN a"}, []string{"y:RUN a", "x:RUN b"}, []int{1, 0}},
		{"a stage with another name", []string{"x:RUN a", "x:COPY b"}, []string{"y:RUN a", "y:COPY c"}, []int{0, -1}},
	} {
		if got := pair(steps(c.now...), steps(c.old...)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// whole is a sequence that ends in no error.
func whole[T any](list ...T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// A build that ends while its files are listed leaves no list that looks whole: the next one writes it.
func TestFilesThatAreNotAllAreNotKept(t *testing.T) {
	l := open(t)
	d := digest.Of([]byte("selection"))
	a, b := snapshot.Entry{Path: "a", Type: snapshot.Regular}, snapshot.Entry{Path: "b", Type: snapshot.Regular}
	if err := l.AddFiles(d, func(yield func(snapshot.Entry, error) bool) {
		_ = yield(a, nil) && yield(snapshot.Entry{}, context.Canceled)
	}); err != nil {
		t.Error(err)
	}
	if err := l.AddFiles(d, whole(a, b)); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for f, err := range l.files(d) {
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, f.Path)
	}
	if !slices.Equal(paths, []string{"a", "b"}) {
		t.Errorf("%q are kept", paths)
	}
}

func TestFilesCause(t *testing.T) {
	l := open(t)
	add := func(entries ...snapshot.Entry) digest.Digest {
		d := digest.Of(fmt.Append(nil, entries))
		if err := l.AddFiles(d, whole(entries...)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	file := func(p, text string, mode uint32) snapshot.Entry {
		return snapshot.Entry{Path: p, Type: snapshot.Regular, Mode: mode, Digest: digest.Of([]byte(text))}
	}
	dir := snapshot.Entry{Path: "d", Type: snapshot.Dir, Mode: 0o755}
	base := add(file("Makefile", "m", 0o644), file("go.sum", "s", 0o644), file("old", "o", 0o644))
	owned, link := file("old", "o", 0o644), snapshot.Entry{Path: "old", Type: snapshot.Symlink, Mode: 0o777, Link: "x"}
	owned.UID = 5
	many := []snapshot.Entry{file("a", "1", 0o644), file("b", "1", 0o644), file("c", "1", 0o644), file("d", "1", 0o644), file("e", "1", 0o644)}
	other := slices.Clone(many)
	for i := range other {
		other[i].Mode = 0o664
	}
	for _, c := range []struct {
		old, now digest.Digest
		want     string
	}{
		{base, add(file("Makefile", "m", 0o664), file("go.sum", "t", 0o644), file("old", "o", 0o644), file("x", "", 0o644), file("y", "", 0o644)),
			"go.sum changed, Makefile 0644 -> 0664, +2 files"},
		{base, add(file("Makefile", "m", 0o644), file("go.sum", "s", 0o644)), "-old"},
		{base, add(file("Makefile", "m", 0o644), file("go.sum", "s", 0o644), file("old", "o", 0o644), dir), "+d/"},
		{base, add(file("Makefile", "m", 0o644), file("go.sum", "s", 0o644), owned), "old 0:0 -> 5:0"},
		{base, add(file("Makefile", "m", 0o644), file("go.sum", "s", 0o644), link), "old is a symbolic link now"},
		{add(many...), add(other...), "a 0644 -> 0664, b 0644 -> 0664, c 0644 -> 0664, 2 more changed"},
		{base, base, "the files have the same bytes in another arrangement"},
		{base, digest.Of([]byte("lost")), "the files changed"},
	} {
		if got := l.filesCause(c.old, c.now, false); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// A --chmod makes all modes the same to a COPY: that is one cause, not one for each file.
func TestModesThatAreReplaced(t *testing.T) {
	l := open(t)
	old, now := digest.Of([]byte("old")), digest.Of([]byte("now"))
	e := snapshot.Entry{Path: "a", Type: snapshot.Regular, Mode: 0o644}
	l.AddFiles(old, whole(e))
	e.Mode = 0
	l.AddFiles(now, whole(e))
	if got := l.filesCause(old, now, true); got != "" {
		t.Error(got)
	}
	if got := l.filesCause(old, now, false); got != "a 0644 -> 0000" {
		t.Error(got)
	}
}

func FuzzParseFiles(f *testing.F) {
	sealed := func(b []byte) []byte { sum := sha256.Sum256(b); return append(b, sum[:]...) }
	marshal := func(files ...File) []byte {
		var b bytes.Buffer
		if err := writeFiles(&b, whole(files...)); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	parse := func(b []byte) (files []File, err error) {
		for f, e := range readFiles(bytes.NewReader(b), int64(len(b))) {
			if files, err = append(files, f), e; err != nil {
				return nil, err
			}
		}
		return files, nil
	}
	good := marshal(File{Path: "a", Type: snapshot.Regular, Mode: 0o644, Digest: digest.Digest{1}}, File{Path: "l", Type: snapshot.Symlink, Rest: "a", Owner: "1:2"})
	f.Add(good[len(listMagic) : len(good)-sha256.Size])
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := parse(body); err == nil {
			t.Error("what has no sum is a list")
		}
		files, err := parse(sealed(append([]byte(listMagic), body...)))
		if err != nil {
			return
		}
		again, err := parse(marshal(files...))
		if err != nil || !slices.Equal(again, files) {
			t.Errorf("%v and then %v: %v", files, again, err)
		}
	})
}

// What two lists have in common is left out wherever it is, and however much one of them has before it.
func TestApart(t *testing.T) {
	list := func(names string) iter.Seq2[File, error] {
		return func(yield func(File, error) bool) {
			for _, name := range strings.Fields(names) {
				path, mode, _ := strings.Cut(name, "=")
				if !yield(File{Path: path, Mode: uint32(len(mode))}, nil) {
					return
				}
			}
		}
	}
	for _, tt := range []struct{ a, b, before, after string }{
		{"a b c", "a b c", "", ""},
		{"a b c", "a b=x c", "b", "b"},
		{"a b c d e f", "d e f", "a b c", ""},
		{"a b", "x y a b z", "", "x y z"},
		{"", "a", "", "a"},
		{"a b c", "c b a", "", ""},
	} {
		x, y, err := apart(list(tt.a), list(tt.b))
		names := func(m map[string]File) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
		if names(x) != tt.before || names(y) != tt.after || err != nil {
			t.Errorf("%q and %q: %q and %q, %v", tt.a, tt.b, names(x), names(y), err)
		}
	}
	broken := func(yield func(File, error) bool) { yield(File{}, errList) }
	if _, _, err := apart(list("a"), broken); !errors.Is(err, errList) {
		t.Errorf("a damaged list: %v", err)
	}
}

// save keeps a build of its own graph.
func save(t *testing.T, l *Log, s Subject, began time.Time, text string) *Build {
	t.Helper()
	b := &Build{ID: "id" + text, Began: began, Subject: s, Status: Done}
	if err := l.Save(b, steps("RUN "+text)); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBefore(t *testing.T) {
	l := open(t)
	now := time.Now()
	at := func(n int) time.Time { return now.Add(time.Duration(n) * time.Second) }
	save(t, l, Subject{Context: "/far", Tags: []string{"docker.io/library/app:latest"}}, at(0), "tagged")
	save(t, l, Subject{Context: "/a", Target: "x"}, at(1), "near")
	first := save(t, l, Subject{Context: "/a"}, at(2), "first")
	save(t, l, Subject{Context: "/a"}, at(3), "second")
	for _, c := range []struct {
		subject Subject
		before  *Build
		want    string
	}{
		{Subject{Context: "/a"}, nil, "idsecond"},
		{Subject{Context: "/a"}, first, "idnear"},
		{Subject{Context: "/a", Target: "y"}, nil, "idsecond"},
		{Subject{Context: "/b", Tags: []string{"docker.io/library/app:latest"}}, nil, "idtagged"},
		{Subject{Context: "/b"}, nil, ""},
		{Subject{Context: "/a", Dockerfile: "other"}, nil, ""},
	} {
		b, err := l.Before(c.subject, c.before)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if b != nil {
			got = b.ID
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.subject, got, c.want)
		}
	}
	for text, want := range map[string]string{"idse": "idsecond", "ids": "", "app": "idtagged", "app:latest": "idtagged", "id": "", "nothing": ""} {
		b, err := l.Find(text)
		if (err != nil) != (want == "") || err == nil && b.ID != want || err != nil && !errors.Is(err, ErrNoBuild) {
			t.Errorf("find %q: %v %v, want %q", text, b, err, want)
		}
	}
}

// Old builds go when there are many of them, with what only they point at.
func TestForget(t *testing.T) {
	l := open(t)
	old := time.Now().Add(-100 * time.Hour)
	add := func(n int) *Graph {
		g := steps(fmt.Sprint("RUN ", n))
		g.Steps[0].Definition = digest.Of(fmt.Append(nil, "definition", n))
		g.Steps[0].Files = []Selection{{0, digest.Of(fmt.Append(nil, "files", n))}}
		l.AddFiles(g.Steps[0].Files[0].Digest, whole[snapshot.Entry]())
		l.write(fileOf("steps", g.Steps[0].Definition), Facts{})
		id := fmt.Sprint(n)
		if n == 2*Keep {
			id = forgetting + id
		}
		if err := l.Save(&Build{ID: id, Began: old.Add(time.Duration(n) * time.Second)}, g); err != nil {
			t.Fatal(err)
		}
		// As if it had been then.
		when := old.Add(time.Duration(n) * time.Hour / 2)
		for _, f := range []string{fileOf("graphs", g.name()), fileOf("steps", g.Steps[0].Definition), fileOf("files", g.Steps[0].Files[0].Digest)} {
			os.Chtimes(l.disk.Path(f), when, when)
		}
		return g
	}
	var graphs []*Graph
	for n := range 2*Keep + 1 {
		graphs = append(graphs, add(n))
	}
	names, err := l.names()
	if err != nil || len(names) != Keep || !strings.HasSuffix(names[0], fmt.Sprint("-", forgetting, 2*Keep)) {
		t.Fatalf("%d builds are left, %v", len(names), err)
	}
	for _, g := range []*Graph{graphs[0], graphs[Keep-10]} {
		if l.has(fileOf("graphs", g.name())) || l.has(fileOf("steps", g.Steps[0].Definition)) || l.has(fileOf("files", g.Steps[0].Files[0].Digest)) {
			t.Error("something of an old build is left")
		}
	}
	for _, g := range graphs[Keep+1:] {
		if !l.has(fileOf("graphs", g.name())) || !l.has(fileOf("steps", g.Steps[0].Definition)) || !l.has(fileOf("files", g.Steps[0].Files[0].Digest)) {
			t.Fatal("something of a build that is kept is gone")
		}
	}
}

// Damaged records are none.
func TestDamagedRecords(t *testing.T) {
	l := open(t)
	b := save(t, l, Subject{Context: "/a"}, time.Now(), "x")
	err := filepath.WalkDir(l.disk.Path("history"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.WriteFile(p, []byte(`{"steps":[{"inputs":[7]}],"id`), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if g := l.Graph(b); g != nil {
		t.Error("a damaged graph is read")
	}
	if got, err := l.Before(b.Subject, nil); got != nil || err != nil {
		t.Errorf("%v %v", got, err)
	}
	save(t, l, Subject{Context: "/a"}, time.Now(), "y")
	for text, valid := range map[string]bool{`{"steps":[{},{"inputs":[0]}]}`: true, `{"steps":[{"inputs":[0]}]}`: false, `{"steps":[{"inputs":[-1]}]}`: false, `{}`: false} {
		if err := l.disk.WriteFile(fileOf("graphs", b.Graph), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if (l.Graph(b) != nil) != valid {
			t.Errorf("%s: valid is not %v", text, valid)
		}
	}
}
