package executor_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A job is what a test has done once in every mode: steps on a base.
type job struct {
	Base  string // a tar
	Steps []step
	Out   string // where the outcome is written
}

type step struct{ User, Script string }

// An outcome is what came of a job.
type outcome struct {
	DiffIDs []string
	Entries [][]string // of each layer, without sizes and times
	Seconds []float64  // that each step took
	Log     string
}

// jobVariable names the file of a job for the test program to do, modeVariable the mode.
const (
	jobVariable  = "EXECUTOR_TEST_JOB"
	modeVariable = "EXECUTOR_TEST_MODE"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of a -race test takes a second to end
	name := os.Getenv(jobVariable)
	if name == "" {
		os.Exit(testkit.Run(m))
	}
	mode := map[string]userns.Mode{"subids": userns.SubIDs, "single": userns.SingleID}[os.Getenv(modeVariable)]
	if _, inside := userns.Inside(); mode != 0 && !inside {
		status, err := userns.Enter(context.Background(), mode)
		exit(status, err)
	}
	exit(0, doJob(name))
}

func exit(status int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(status)
}

func doJob(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		return err
	}
	defer cache.RemoveAll(dir)
	out, err := j.do(dir)
	if err != nil {
		return err
	}
	if b, err = json.Marshal(out); err != nil {
		return err
	}
	return os.WriteFile(j.Out, b, 0o644)
}

// do runs the steps over a store in dir.
func (j *job) do(dir string) (*outcome, error) {
	disk, err := cache.Open(dir)
	if err != nil {
		return nil, err
	}
	layers := snapshot.New(disk, func(context.Context, snapshot.Blob) (io.ReadCloser, error) {
		return nil, errors.New("nothing is elsewhere")
	})
	base, err := addBlob(disk, j.Base)
	if err != nil {
		return nil, err
	}
	root, err := layers.AppendImage([]digest.Digest{base})
	if err != nil {
		return nil, err
	}
	var log strings.Builder
	x := &executor.Executor{
		Layers: layers, Disk: disk, Now: func() time.Time { return time.Unix(0, 0) },
		Log: func(*llb.Vertex) (io.Writer, io.Writer) { return &log, &log },
	}
	defer x.Close()
	out := new(outcome)
	ctx := context.Background()
	for _, s := range j.Steps {
		v := llb.New(&llb.Exec{
			Args: []string{"/bin/sh", "-ec", s.Script}, User: s.User, Cwd: "/", Network: llb.NetworkDefault,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"},
		}, []*llb.Vertex{llb.New(&llb.Image{}, nil, llb.Meta{})}, llb.Meta{})
		start := time.Now()
		if root, err = x.Execute(ctx, v, []digest.Digest{root}); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", s.Script, err, log.String())
		}
		out.Seconds = append(out.Seconds, time.Since(start).Seconds())
		if err := out.add(ctx, layers, root); err != nil {
			return nil, err
		}
	}
	out.Log = log.String()
	return out, nil
}

func addBlob(disk *cache.Store, file string) (digest.Digest, error) {
	f, err := os.Open(file)
	if err != nil {
		return digest.Digest{}, err
	}
	defer f.Close()
	w, err := disk.NewBlob()
	if err != nil {
		return digest.Digest{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, f); err != nil {
		return digest.Digest{}, err
	}
	return w.Commit()
}

// add adds the topmost layer of root, which must be the same when its tar is made once more.
func (o *outcome) add(ctx context.Context, layers *snapshot.Store, root digest.Digest) error {
	c, err := layers.Chain(root)
	if err != nil {
		return err
	}
	toc, err := layers.TOC(ctx, c.Layer)
	if err != nil {
		return err
	}
	var list []string
	for e := range toc.Entries.All() {
		list = append(list, fmt.Sprintf("%c %04o %d:%d %s %q %d:%d %q", e.Type, e.Mode, e.UID, e.GID, e.Path, e.Link, e.Major, e.Minor, e.Xattrs))
	}
	o.Entries = append(o.Entries, list)
	o.DiffIDs = append(o.DiffIDs, c.Layer.String())
	_, err = layers.Compressed(ctx, c, snapshot.Compression{MediaType: snapshot.MediaTypeTar})
	return err
}

// inMode has this program do j in a mode, as an ordinary user where the mode is not root.
func inMode(t *testing.T, mode string, j job) *outcome {
	t.Helper()
	dir := testkit.OpenDir(t)
	work := filepath.Join(dir, "work")
	cmd := exec.Command(testkit.Program(t, dir))
	cmd.Env = []string{"TMPDIR=" + work, "PATH=" + os.Getenv("PATH"), modeVariable + "=" + mode, jobVariable + "=" + filepath.Join(dir, "job")}
	if mode != "root" {
		u := testkit.OrdinaryUser(t)
		u.Dir(t, work)
		u.Become(cmd)
	} else if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	j.Out = filepath.Join(work, "out")
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "job"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, text)
	}
	if b, err = os.ReadFile(j.Out); err != nil {
		t.Fatal(err)
	}
	out := new(outcome)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// needRoot skips a test that becomes other users.
func needRoot(t *testing.T) {
	t.Helper()
	if _, inside := userns.Inside(); inside {
		t.Skip("needs root of the host, to build as root and as an ordinary user")
	}
	if err := userns.Check(userns.Root); err != nil {
		t.Skip(err)
	}
}

// busyboxTar writes the tar of a root with busybox, and with owners.
func busyboxTar(t *testing.T) string {
	t.Helper()
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip(err)
	}
	name := filepath.Join(t.TempDir(), "base.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(h tar.Header, text string) {
		h.Size = int64(len(text))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "etc", "home", "proc", "sys", "dev", "w"} {
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(binary))
	for _, applet := range strings.Fields("sh cat chown chmod cp find ln ls mkdir mkfifo mv rm su tar touch xargs stat id") {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
	}
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
	add(tar.Header{Name: "etc/group", Mode: 0o644}, "root:x:0:\napp:x:1001:\nmore:x:2000:app\n")
	add(tar.Header{Name: "home/app/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1000, Gid: 1001}, "")
	add(tar.Header{Name: "home/app/f", Mode: 0o755, Uid: 1000, Gid: 1001}, "text")
	add(tar.Header{Name: "home/app/l", Typeflag: tar.TypeSymlink, Linkname: "f", Uid: 1000, Gid: 1001}, "")
	add(tar.Header{Name: "home/app/p", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 3, Gid: 4}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// The same steps make the same layers as root, with subordinate ids and with one id.
func TestSameLayersInEveryMode(t *testing.T) {
	needRoot(t)
	const epoch = "; find /w /home | xargs touch -h -d '2000-01-01 00:00:00'"
	j := job{Base: busyboxTar(t), Steps: []step{
		{"", "stat -c '%n %u:%g %a' /home/app /home/app/* > /w/stat" + epoch},
		{"", "cd /w; mkdir d; touch d/f; chmod 6755 d/f; ln d/f d/g; ln -s f d/l; mkfifo d/p; chown -R 1000:1001 d; chown -h 5:6 d/l; chown app:more d/p; mkdir -m 1777 open; mkdir -m 2775 team; chown 1000 open; chown 1000:2000 team" + epoch},
		{"1000", "cd /w/open; id -u > a; umask 077; echo > b; mkdir c; ln -s a l; mkfifo p; chown :2000 a; echo > ../team/f; find /w/open /w/team | xargs touch -h -d '2000-01-01 00:00:00'"},
		{"", "echo more >> /home/app/f; mv /home/app/l /home/app/m; cp -a /home/app /w/copy; rm /home/app/p; chown 7 /w/d/f" + epoch},
		{"", "su app -c 'id -un > ~/by-su; (echo $$ > /dev/null; cat ~/by-su > ~/orphan) & wait'; su app -c 'echo > /denied' 2> /dev/null || echo no > /w/denied" + epoch},
	}}
	want := inMode(t, "root", j)
	for _, mode := range []string{"subids", "single"} {
		t.Run(mode, func(t *testing.T) {
			got := inMode(t, mode, j)
			for i := range want.Entries {
				if d := cmp.Diff(want.Entries[i], got.Entries[i]); d != "" {
					t.Errorf("layer of %q:\n%s", j.Steps[i].Script, d)
				} else if want.DiffIDs[i] != got.DiffIDs[i] {
					t.Errorf("layer of %q: the entries are equal, the digests are not", j.Steps[i].Script)
				}
			}
		})
	}
}

// Packages of Debian come out the same with one id as with many, in about the same time.
func TestDebianPackages(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("takes a minute, and the network")
	}
	base := filepath.Join(os.TempDir(), "build-test", "debian.tar")
	if out, err := exec.Command("../scripts/debian-base", base).CombinedOutput(); err != nil {
		t.Skipf("no Debian base: %v\n%s", err, out)
	}
	j := job{Base: base, Steps: []step{
		{"", "apt-get update && apt-get install -y --no-install-recommends --download-only cron openssh-client libcap2-bin"},
		{"", "apt-get install -y --no-install-recommends cron openssh-client libcap2-bin"},
		{"", "useradd -m -G crontab app; setcap cap_net_bind_service+ep /usr/sbin/cron; su app -c 'touch ~/file'; mkdir /srv/data; chown -R app: /srv/data; tar -C /srv/data -cf /srv/t.tar --owner=12 --group=34 /etc/passwd; tar -C /srv -xf /srv/t.tar"},
		{"app", "id; touch ~/mine; getcap /usr/sbin/cron; ls -l /usr/bin/crontab /var/spool/cron"},
	}}
	var many, one *outcome
	t.Run("modes", func(t *testing.T) { // side by side: they wait for the network
		t.Run("subids", func(t *testing.T) { t.Parallel(); many = inMode(t, "subids", j) })
		t.Run("single", func(t *testing.T) { t.Parallel(); one = inMode(t, "single", j) })
	})
	if t.Failed() {
		return
	}
	for i := range many.Entries {
		if d := cmp.Diff(many.Entries[i], one.Entries[i]); d != "" {
			t.Errorf("layer of %q:\n%s", j.Steps[i].Script, d)
		}
	}
	t.Logf("seconds with many ids %.2f, with one %.2f; installing takes %.2f times as long", many.Seconds, one.Seconds, one.Seconds[1]/many.Seconds[1])
	t.Log(one.Log[max(0, len(one.Log)-600):])
}
