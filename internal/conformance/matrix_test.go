package conformance

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/seed0570efb0/build/internal/testkit"
)

// A rung is a kind of place to build in.
type rung struct {
	name      string
	isolation string // what --isolation=auto chooses there
	forced    bool   // or rather: what it is told, since the tests' host has something better
	ordinary  bool   // not root
	shell     string // how a place of that kind is made; "$@" is the build, $HOME its folder
}

// container makes an unprivileged container, as Docker, podman and Kubernetes do: user, mount and pid namespace, parts of /proc and
// /sys masked, and their capabilities.
const container = `exec unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child --mount-proc sh -c '
	mount --bind /dev/null /proc/keys && mount -t tmpfs none /sys/firmware && mount -o remount,bind,ro /proc/keys || exit 99
	%s exec setpriv --bounding-set "$caps" --inh-caps "$caps" %s "$@"' sh "$@"`

const dockerCaps = `caps=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap; `

var rungs = []rung{
	{name: "root", isolation: "root"},
	{name: "ordinary user with subordinate uids", isolation: "subids", ordinary: true},
	{name: "ordinary user without", isolation: "single", forced: true, ordinary: true},
	{name: "root in an unprivileged container", isolation: "subids", ordinary: true, shell: fmt.Sprintf(container, dockerCaps, "")},
	{name: "user 1000 in such a container", isolation: "single", ordinary: true, shell: fmt.Sprintf(container,
		dockerCaps+`chown -R 1000:1000 "$HOME" || exit 99;`, "--reuid 1000 --regid 1000 --clear-groups --no-new-privs")},
	{name: "root that may not mount", isolation: "chroot", forced: true, shell: `exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin "$@"`},
}

// A workload is something that people build. Its Dockerfile ends with the same image on every rung, or is refused.
type workload struct {
	name       string
	dockerfile string
	debian     bool
	options    []string
	chroot     string // the error there; everywhere else it works
}

// Steps end with "settle": what they have changed gets one time.
var workloads = []workload{
	{name: "hello", dockerfile: `
FROM busybox
COPY root /
RUN echo hello > /hello && settle
CMD ["cat", "/hello"]
`},
	{name: "apt-get", debian: true, dockerfile: `
FROM debian
COPY root debian /
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get install -y --no-install-recommends /debs/*.deb && rm -rf /var/log/* /var/cache/* && settle
RUN useradd -m -G crontab app && setcap cap_net_bind_service+ep /usr/sbin/cron && getcap /usr/sbin/cron && settle
RUN su app -c 'id -un > ~/me && ssh-keygen -q -t ed25519 -N "" -f ~/key && ssh-keygen -y -f ~/key > /dev/null && rm ~/key*' && settle
RUN dpkg --purge openssh-client && dpkg -i /debs/openssh-client*.deb && rm -rf /var/log/* /var/cache/* && settle
`},
	{name: "foreign owners", dockerfile: `
FROM busybox
COPY root /
RUN mkdir /added /given && settle
ADD owners.tar /added/
ADD --chown=app:extra --chmod=640 owners.tar /given/
COPY --chown=65534:12345 root/usr/local/bin/settle /copied
COPY owners.tar /
RUN mkdir /out && tar -xf /owners.tar -C /out && settle
RUN chown -R 4000:5000 /added && chown -h 7 /out/link && settle
RUN stat -c '%n %u:%g %a %F' /added/* /given/* /out/* /copied > /list && settle
`},
	{name: "USER", dockerfile: `
FROM busybox
COPY root /
RUN mkdir -m 1777 /open && mkdir -m 2775 /team && chown 1234 /open && chown app:extra /team && settle
USER app
WORKDIR /home/app
RUN id > who && umask 077 && mkdir private && echo secret > private/file && ln -s who link && echo > /team/file && (echo > /denied) 2> /dev/null || settle
USER 1234:5678
RUN id -u > /open/uid && id -g > /open/gid && chmod 4755 /open/uid && settle
USER root
RUN su app -c 'id -un > /open/su' && cat /home/app/private/file && settle
`},
	{name: "mounts", options: []string{"--secret", "id=token,src=root/usr/local/bin/settle"}, chroot: "this host allows no mounts, and in their place only files can be copied", dockerfile: `
FROM busybox
COPY root /
RUN --mount=type=cache,target=/cache,uid=1000,gid=1001 --mount=type=secret,id=token,uid=1000 --mount=type=bind,target=/context \
    stat -c '%n %u:%g %a' /cache /run/secrets/token > /list && cmp /run/secrets/token /context/root/usr/local/bin/settle && echo kept > /cache/file && settle
USER app
RUN --mount=type=cache,target=/cache,uid=1000,gid=1001 --mount=type=tmpfs,target=/home/app/tmp \
    cat /cache/file > ~/copy && touch ~/tmp/file /cache/mine && settle
`},
	{name: "stages", dockerfile: `
FROM busybox AS one
COPY root /
RUN mkdir /out && echo 1 > /out/one && chown -R 1000:1001 /out && ln -s one /out/link && mkfifo /out/pipe && chown -h 3:4 /out/link /out/pipe && settle
FROM busybox AS two
COPY root /
COPY --from=one /out /in
RUN cp -a /in /again && rm /in/link && mv /in/pipe /moved && settle
FROM scratch
COPY places /
COPY --from=one /out /one
COPY --from=two / /two
COPY --from=two --chown=9:9 /again /given
`},
}

// TestMatrix builds every workload on every rung. Each cell runs or is refused with its documented error, and the images of a
// workload have one digest.
func TestMatrix(t *testing.T) {
	need(t, "unshare", "setpriv", "newuidmap")
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become others and to give rights up")
	}
	m := newMatrix(t)
	t.Run(rungs[0].name, func(t *testing.T) { m.climb(t, &rungs[0]) }) // with which the others are compared
	t.Run("others", func(t *testing.T) {
		for _, r := range rungs[1:] {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				m.climb(t, &r)
			})
		}
	})
	t.Log("\n" + m.table())
}

// A matrix is what TestMatrix has and what it found.
type matrix struct {
	t       *testing.T
	context string
	bases   []string
	images  map[string]v1.Image // of the first rung, by workload

	mu    sync.Mutex
	cells map[[2]string]string // by rung and workload, for people
}

// builder is one rung with what it takes to build on it.
type builder struct {
	*rung
	*account
}

func newMatrix(t *testing.T) *matrix {
	m := &matrix{t: t, context: tempDir(t), cells: map[[2]string]string{}, images: map[string]v1.Image{}}
	m.bases = []string{"--build-context", "busybox=oci-layout://" + base(t)}
	// A root without these folders gets them with the first step, at the time of that.
	testkit.Tree(t, m.context, "places/one/", "places/two/", "places/given/", "root/proc/", "root/sys/", "root/dev/", "root/usr/local/bin/settle 755 = #!/bin/sh\nfind / -xdev -newer /usr/local/bin/settle -exec touch -h -d '2001-02-03 04:05:06' {} + 2> /dev/null || :\n")
	write(t, filepath.Join(m.context, "owners.tar"), string(testkit.Tar(t, "dir/ 0750 10:20", "file 4711 65534:65533", "link -> file 11:12")))
	for _, w := range workloads {
		write(t, filepath.Join(m.context, w.name+".Dockerfile"), w.dockerfile)
	}
	m.addDebian(t)
	return m
}

// addDebian adds a Debian base image and packages to install, as they are on the tests' host. Without them there is a hole in the matrix.
func (m *matrix) addDebian(t *testing.T) {
	dir := filepath.Join(os.TempDir(), "build-test")
	root, packages := filepath.Join(dir, "debian.tar"), filepath.Join(dir, "debian-packages")
	for _, c := range []*exec.Cmd{
		exec.Command("../../scripts/debian-base", root),
		exec.Command("../../scripts/debian-packages", packages, root, "cron", "openssh-client", "libcap2-bin"),
	} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Logf("no Debian: %v\n%s", err, out)
			return
		}
	}
	if err := os.CopyFS(filepath.Join(m.context, "debian/debs"), os.DirFS(packages)); err != nil {
		t.Fatal(err)
	}
	layer, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	img := testkit.Image(t, v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}, layer)
	layout := filepath.Join(tempDir(t), "debian")
	if err := os.CopyFS(layout, os.DirFS(testkit.OCILayout(t, img, "latest"))); err != nil {
		t.Fatal(err)
	}
	m.bases = append(m.bases, "--build-context", "debian=oci-layout://"+layout)
}

func (m *matrix) hasDebian() bool { return len(m.bases) > 2 }

// climb builds all workloads on a rung.
func (m *matrix) climb(t *testing.T, r *rung) {
	b := m.builder(t, r)
	if got := b.chosen(t); got != r.isolation {
		t.Fatalf("the isolation is %q, not %q", got, r.isolation)
	}
	for i := range workloads {
		w := &workloads[i]
		t.Run(w.name, func(t *testing.T) {
			text := m.cell(t, b, w)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.cells[[2]string{r.name, w.name}] = text
		})
	}
}

func (m *matrix) builder(t *testing.T, r *rung) *builder {
	t.Helper()
	who := accounts(t)
	b := &builder{r, who[0]}
	if r.ordinary {
		b.account = who[1]
	}
	return b
}

// command is account.command in the rung's place.
func (b *builder) command(args ...string) *exec.Cmd {
	if b.forced {
		args = append(args, "--isolation="+b.isolation)
	}
	c := b.account.command(args...)
	if b.shell != "" {
		c.Args = append([]string{"sh", "-c", b.shell, "sh", c.Path}, args...)
		c.Path = "/bin/sh"
	}
	return c
}

// chosen returns the isolation that "build doctor" says is taken.
func (b *builder) chosen(t *testing.T) string {
	t.Helper()
	var report struct{ Isolation string }
	text := output(t, b.command("doctor", "--json"))
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	return report.Isolation
}

// cell builds w and returns what came of it.
func (m *matrix) cell(t *testing.T, b *builder, w *workload) string {
	if w.debian && !m.hasDebian() {
		t.Skip("there is no Debian here")
	}
	archive := filepath.Join(b.home, w.name+".tar")
	args := append([]string{"--progress=plain", "-f", filepath.Join(m.context, w.name+".Dockerfile"), "-o", "type=oci,dest=" + archive}, m.bases...)
	c := b.command(append(append(args, w.options...), ".")...)
	c.Dir = m.context
	c.Env = append(c.Env, "SOURCE_DATE_EPOCH=981173106")
	began := time.Now()
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case b.isolation == "chroot" && w.chroot != "":
		if !errors.As(err, &exit) || !strings.Contains(string(out), w.chroot) {
			t.Errorf("got %v, want a refusal\n%s", err, out)
		}
		return "refused"
	case err != nil:
		t.Errorf("%v\n%s", err, out)
		return "FAILED"
	}
	took := time.Since(began).Seconds()
	if !m.same(t, b, w, openArchive(m.t, archive)) {
		return "DIFFERS"
	}
	return fmt.Sprintf("ok %.1fs", took)
}

// same compares an image of w with that of the first rung.
func (m *matrix) same(t *testing.T, b *builder, w *workload, img v1.Image) bool {
	t.Helper()
	first := m.images[w.name]
	if first == nil && b.rung == &rungs[0] {
		m.images[w.name] = img
		return true
	}
	if first == nil {
		t.Error("there is no image of the first rung to compare with")
		return false
	}
	want, got := digestOf(t, first), digestOf(t, img)
	if got == want {
		return true
	}
	t.Errorf("the digest is %s on the first rung and %s here:\n%s", want, got, missing(describeLayers(t, img), describeLayers(t, first), "only there")+missing(describeLayers(t, first), describeLayers(t, img), "only here"))
	return false
}

// missing returns the lines of b that a does not have.
func missing(a, b []string, title string) string {
	has := map[string]bool{}
	for _, line := range a {
		has[line] = true
	}
	var out strings.Builder
	for _, line := range b {
		if !has[line] {
			fmt.Fprintf(&out, "%s: %s\n", title, line)
		}
	}
	return out.String()
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// describeLayers returns what is in the layers of img, one line for each file, and its config.
func describeLayers(t *testing.T, img v1.Image) []string {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{string(config)}
	for _, l := range layersOf(t, img) {
		lines = append(lines, "layer")
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for files := tar.NewReader(r); ; {
			h, err := files.Next()
			if err == io.EOF {
				break
			}
			sum := sha256.New()
			if err == nil {
				_, err = io.Copy(sum, files)
			}
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf("%c %04o %d:%d %q %q %d:%d %d %x %q", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname,
				h.Devmajor, h.Devminor, h.ModTime.Unix(), sum.Sum(nil)[:4], h.PAXRecords))
		}
	}
	return lines
}

// table returns what was found, as it is in the manual.
func (m *matrix) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, l := range workloads {
		fmt.Fprint(w, "\t", l.name)
	}
	for _, r := range rungs {
		fmt.Fprint(w, "\n", r.name)
		for _, l := range workloads {
			fmt.Fprint(w, "\t", m.cells[[2]string{r.name, l.name}])
		}
	}
	w.Flush() // to memory
	return b.String()
}
