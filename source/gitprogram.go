package source

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/moby/buildkit/util/gitutil"

	"github.com/seed0570efb0/build/cache"
)

// A git is the git program with a folder to work in, and with nothing of this user and this host: no configuration, no
// credentials but those that are meant for the build. What it talks to is hostile.
type git struct {
	place *gitPlace
	tmp   *cache.TempDir
	work  string // the folder
	url   string // of the repository, without credentials
	env   []string
	end   []func()
}

// gitConfig is what a repository must not decide. Submodules may lie where the repository could, but not in files of
// this host, and no helper of the user or of the repository runs.
var gitConfig = []string{
	"protocol.allow=never", "protocol.https.allow=always", "protocol.http.allow=always", "protocol.ssh.allow=always",
	"protocol.git.allow=always", "protocol.file.allow=user",
	"core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=true", "core.autocrlf=false", "core.askPass=",
	"credential.helper=", "init.templateDir=", "init.defaultBranch=master", "advice.detachedHead=false", "gc.auto=0", "maintenance.auto=false",
}

// passedOn are the variables of this process that git sees.
var passedOn = []string{
	"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
}

func (p *gitPlace) newGit() (*git, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, &RemoteError{p.op.Name(), errors.New("the git program is not installed"),
			"install it (the package is called git), or check the repository out and name the folder"}
	}
	tmp, err := p.disk.NewTempDir()
	if err != nil {
		return nil, err
	}
	g := &git{place: p, tmp: tmp, work: tmp.Join("tree"), url: p.op.Remote}
	g.end = append(g.end, func() { _ = tmp.Remove() })
	if err := g.prepare(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *git) close() {
	for i := len(g.end) - 1; i >= 0; i-- {
		g.end[i]()
	}
}

func (g *git) prepare() error {
	for _, dir := range []string{"home", "tree"} {
		if err := os.Mkdir(g.tmp.Join(dir), 0o700); err != nil {
			return err
		}
	}
	g.env = []string{
		"HOME=" + g.tmp.Join("home"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_CEILING_DIRECTORIES=" + g.tmp.Path, "LC_ALL=C",
	}
	for _, name := range passedOn {
		if v, ok := os.LookupEnv(name); ok {
			g.env = append(g.env, name+"="+v)
		}
	}
	transport, err := gitTransport(g.url)
	if err != nil {
		return g.place.fail("%w", err)
	}
	switch transport {
	case gitutil.SSHProtocol:
		return g.prepareSSH()
	case gitutil.HTTPProtocol, gitutil.HTTPSProtocol:
		return g.authorize()
	}
	return nil
}

// gitTransport returns how git will reach a repository. What git might understand in another way is an error: it
// would be reached without what is prepared for it.
func gitTransport(remote string) (string, error) {
	if strings.HasPrefix(remote, "file:///") {
		return "file", nil
	}
	address, err := gitutil.ParseURL(remote)
	switch {
	case err != nil:
		return "", err
	case address.Host == "", strings.HasPrefix(address.Host, "-"), strings.HasPrefix(address.Host, ":"):
		return "", fmt.Errorf("invalid host %q in the address of a git repository", address.Host)
	case strings.Contains(remote, "::"): // the program to ask comes before it
		if scheme, _, _ := strings.Cut(remote, "::"); !strings.ContainsAny(scheme, ":/@") {
			return "", errors.New("remote helpers of git are not for builds")
		}
	}
	return address.Scheme, nil
}

// authorize gives git what the server may ask for. It goes through the environment, which unlike arguments
// others cannot see.
func (g *git) authorize() error {
	u, err := url.Parse(g.url)
	if err != nil {
		return err
	}
	const header, token = "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"
	id, value, err := g.place.secret(header+"."+u.Host, token+"."+u.Host, header, token)
	if err != nil {
		return err
	}
	basic := func(user, password string) string {
		return "basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	switch {
	case strings.HasPrefix(id, token):
		value = basic("x-access-token", value)
	case id == "" && u.User != nil:
		password, _ := u.User.Password()
		value = basic(u.User.Username(), password)
	}
	u.User = nil
	g.url = u.String()
	if value != "" {
		// Git would follow a redirect with the header. GitHub's own hosts share credentials with their submodules.
		scope := g.url
		for _, own := range []string{"https://github.com/", "https://www.github.com/"} {
			if strings.HasPrefix(g.url, own) {
				scope = own
			}
		}
		g.env = append(g.env, "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0=http."+scope+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+value,
			"GIT_CONFIG_KEY_1=http."+scope+".followRedirects", "GIT_CONFIG_VALUE_1=false")
	}
	return nil
}

// prepareSSH gives git an agent, if --ssh does, and no other key of this user. Hosts are known as this user knows them;
// a host that is new is believed once.
func (g *git) prepareSSH() error {
	known := g.tmp.Join("known_hosts")
	var list []byte
	if home, err := os.UserHomeDir(); err == nil {
		list, _ = os.ReadFile(filepath.Join(home, ".ssh/known_hosts")) // one that cannot be read knows nobody
	}
	if err := os.WriteFile(known, list, 0o600); err != nil {
		return err
	}
	quoted := "'" + strings.ReplaceAll(known, "'", `'\''`) + "'"
	g.env = append(g.env, "GIT_SSH_COMMAND=ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ForwardAgent=no -o ConnectTimeout=15"+
		" -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="+quoted, "GIT_SSH_VARIANT=ssh")
	if g.place.Agent == nil {
		return nil
	}
	socket, end, err := g.place.Agent(g.tmp.Path)
	if err != nil {
		return fmt.Errorf("socket of the SSH agent: %w", err)
	}
	g.end = append(g.end, end)
	g.env = append(g.env, "SSH_AUTH_SOCK="+socket)
	return nil
}

// A gitError is what git said when it failed.
type gitError struct{ stderr string }

// Error returns the line that says why. Git's own, when ssh has failed, says only that it has.
func (e *gitError) Error() string {
	var before, last, fatal string
	for line := range strings.Lines(e.stderr) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		before, last = last, line
		for _, prefix := range []string{"fatal: ", "error: "} {
			if rest, ok := strings.CutPrefix(line, prefix); ok && fatal == "" {
				if fatal = rest; strings.HasPrefix(rest, "Could not read from remote repository") {
					fatal = cmp.Or(before, rest)
				}
			}
		}
	}
	return "git: " + cmp.Or(fatal, last, "it said nothing")
}

// run runs git and returns its output. Nothing of it outlives this process.
func (g *git) run(ctx context.Context, args ...string) (string, error) {
	var all []string
	for _, c := range gitConfig {
		all = append(all, "-c", c)
	}
	cmd := exec.CommandContext(ctx, "git", append(all, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = g.work, g.env, &stdout, &stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // its helpers as well
	cmd.WaitDelay = 5 * time.Second
	runtime.LockOSThread() // the kernel watches the thread that started it
	err := cmd.Run()
	runtime.UnlockOSThread()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		text := stderr.String()
		return "", &RemoteError{g.place.op.Name(), &gitError{text}, g.hint(text)}
	}
	return stdout.String(), err
}

// gitHints say what to do when git says something.
var gitHints = []struct{ says, hint string }{
	{"could not read Username", "give a token with --secret id=GIT_AUTH_TOKEN,env=TOKEN; what must not be seen without one is often not found either"},
	{"Authentication failed", "the token or the password is not accepted there"},
	{"returned error: 403", "the token may not read this repository"},
	{"Permission denied (", "give the keys with --ssh default, or --ssh default=KEYFILE"},
	{"REMOTE HOST IDENTIFICATION HAS CHANGED", "the key of the host is not the one in ~/.ssh/known_hosts: find out why"},
	{"ssh: not found", "install the ssh client (the package is called openssh-client or openssh-clients)"},
	{"cannot run ssh", "install the ssh client (the package is called openssh-client or openssh-clients)"},
	{"transport 'file' not allowed", "submodules in files of this host are not fetched; leave submodules out with ?submodules=false"},
	{"returned error: 30", "credentials are not sent to where the server redirects; write that address"},
	{"unknown option `object-format", "the repository has sha256 names, which this git does not know: install a newer one"},
	{"dubious ownership", "it belongs to somebody else, whose configuration git would obey: build as that user, or name a folder where it is checked out"},
	{"Could not resolve host", "behind a proxy, set HTTP_PROXY and HTTPS_PROXY"},
	{"not found", "check the address and the path"},
}

func (g *git) hint(stderr string) string {
	for _, h := range gitHints {
		if strings.Contains(stderr, h.says) {
			return h.hint
		}
	}
	return ""
}
