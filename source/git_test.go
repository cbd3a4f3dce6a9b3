package source

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/llb"
)

// A gitSite is a server with repositories, which are folders in root.
type gitSite struct {
	*site
	root string
}

func newGitSite(t *testing.T) *gitSite {
	root := t.TempDir()
	return &gitSite{newSite(t, testkit.GitServer(t, root).ServeHTTP), root}
}

func (s *gitSite) dir(name string) string { return filepath.Join(s.root, name) }

// fails pins and fetches op, which must fail and say want.
func (b *builds) fails(t *testing.T, op *llb.Git, want string) {
	t.Helper()
	r := b.next()
	_, err := r.Pin(t.Context(), op)
	if err == nil {
		_, err = r.Fetch(t.Context(), op)
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%+v: error %v, want %q", op, err, want)
	}
}

func TestGitFiles(t *testing.T) {
	s := newGitSite(t)
	dir := s.dir("r")
	first := testkit.GitRepo(t, dir, "f", "one\n", "sub/g", "g\n", "sub/run", "x")
	os.Chmod(dir+"/sub/run", 0o755)
	os.Symlink("../f", dir+"/sub/link")
	testkit.GitCommit(t, dir)
	testkit.Git(t, dir, "tag", "-a", "-m", "tag", "v1")
	testkit.Git(t, dir, "branch", "old", first)
	testkit.Git(t, dir, "update-ref", "refs/pull/1/head", first)
	second := testkit.GitCommit(t, dir, "f", "two\n")
	testkit.Git(t, dir, "update-server-info")

	f := func(text string) string { return "0644 0:0 f \"" + text + "\\n\" @1000000000\n" }
	sub := "0755 0:0 sub d\n0644 0:0 sub/g \"g\\n\" @1000000000\n0777 0:0 sub/link l../f\n0755 0:0 sub/run \"x\" @1000000000\n"
	plain := "0755 0:0 sub d\n0644 0:0 sub/g \"g\\n\" @1000000000\n0644 0:0 sub/run \"x\" @1000000000\n"
	for name, tt := range map[string]struct {
		op   llb.Git
		want string
	}{
		"default branch":      {llb.Git{}, f("two") + sub},
		"branch":              {llb.Git{Ref: "old"}, f("one") + plain},
		"whole name":          {llb.Git{Ref: "refs/heads/old"}, f("one") + plain},
		"neither of the two":  {llb.Git{Ref: "refs/pull/1/head"}, f("one") + plain},
		"tag":                 {llb.Git{Ref: "v1"}, f("one") + sub},
		"commit of a branch":  {llb.Git{Ref: second}, f("two") + sub},
		"commit in between":   {llb.Git{Ref: first}, f("one") + plain},
		"folder":              {llb.Git{Ref: "v1", Subdir: "sub"}, strings.ReplaceAll(strings.TrimPrefix(sub, "0755 0:0 sub d\n"), " sub/", " ")},
		"beginning of commit": {llb.Git{Checksum: second[:7]}, f("two") + sub},
		"commit of a tag":     {llb.Git{Ref: "v1", Checksum: testkit.Git(t, dir, "rev-parse", "v1^{commit}")}, f("one") + sub},
		"by commit":           {llb.Git{Ref: "main", Checksum: first, FetchByCommit: true}, f("one") + plain},
	} {
		for _, remote := range []string{s.URL + "/r.git", s.URL + "/dumb/r.git", "file://" + dir} {
			b := newBuilds(t)
			op := tt.op
			op.Remote = remote
			if got := b.files(t, b.next(), &op); got != tt.want {
				t.Errorf("%s of %s: got\n%swant\n%s", name, remote, got, tt.want)
			}
		}
	}
	b := newBuilds(t)
	for want, op := range map[string]*llb.Git{
		"repository does not contain ref nosuch":         {Ref: "nosuch"},
		"repository does not contain ref " + second[:7]:  {Ref: second[:7]},
		"expected checksum to match 1234567, got":        {Checksum: "1234567"},
		"invalid checksum main for Git URL":              {Checksum: "main"},
		`there is no folder "nosuch" in commit`:          {Subdir: "nosuch"},
		`git subpath "sub/link" contains non-directory`:  {Ref: "v1", Subdir: "sub/link"},
		`there is no folder ".git" in commit`:            {Subdir: ".git"},
		`invalid git ref "--upload-pack=x"`:              {Ref: "--upload-pack=x"},
		"fetch-by-commit requires a full commit":         {Ref: "main", Checksum: first[:9], FetchByCommit: true},
		"repository does not contain commit 11111111111": {Ref: strings.Repeat("1", 40)},
	} {
		op.Remote = s.URL + "/r.git"
		b.fails(t, op, want)
	}
	b.fails(t, &llb.Git{Remote: s.URL + "/nosuch.git"}, "git: repository '"+s.URL+"/nosuch.git/' not found")
	b.disk.Close()
	if left, _ := os.ReadDir(b.disk.Path("tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// A commit is named by what it is, wherever it lies and whatever leads to it; where .git is kept, that shows.
func TestGitPin(t *testing.T) {
	s := newGitSite(t)
	commit := testkit.GitRepo(t, s.dir("r"), "f", "one\n")
	testkit.Git(t, s.dir("r"), "tag", "-a", "-m", "tag", "v1")
	pin := func(op llb.Git) string {
		t.Helper()
		b := newBuilds(t)
		d, err := b.next().Pin(t.Context(), &op)
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	http, file := s.URL+"/r.git", "file://"+s.dir("r")
	base := pin(llb.Git{Remote: http})
	for _, same := range []llb.Git{{Remote: file}, {Remote: http, Ref: "v1"}, {Remote: http, Ref: commit}} {
		if pin(same) != base {
			t.Errorf("%+v: another name for the same commit", same)
		}
	}
	for _, other := range []llb.Git{{Remote: http, Subdir: "x"}, {Remote: http, SkipSubmodules: true}, {Remote: http, KeepGitDir: true}} {
		if pin(other) == base {
			t.Errorf("%+v: the same name for something else", other)
		}
	}
	if pin(llb.Git{Remote: http, KeepGitDir: true}) == pin(llb.Git{Remote: file, KeepGitDir: true}) {
		t.Error("where it came from is in .git")
	}

	// A build asks once, whatever happens meanwhile.
	b := newBuilds(t)
	op := &llb.Git{Remote: http, Ref: "main"}
	r := b.next()
	before, err := r.Pin(t.Context(), op)
	if err != nil {
		t.Fatal(err)
	}
	testkit.GitCommit(t, s.dir("r"), "f", "two\n")
	s.requests()
	if d, _ := b.process(r.build).Pin(t.Context(), op); d != before || s.requests() != "" {
		t.Error("another process of the build asked again")
	}
	if got := b.files(t, r, op); !strings.Contains(got, "one") {
		t.Errorf("not what was pinned: %s", got)
	}
	if got := b.files(t, b.next(), op); !strings.Contains(got, "two") {
		t.Errorf("the next build sees %s", got)
	}
}

func TestGitSHA256(t *testing.T) {
	s := newGitSite(t)
	commit := testkit.GitRepo(t, s.dir("r"), "--object-format=sha256", "f", "one\n")
	testkit.Git(t, s.dir("r"), "update-server-info")
	for _, remote := range []string{s.URL + "/r.git", "file://" + s.dir("r")} {
		for _, ref := range []string{"", "main", commit} {
			b := newBuilds(t)
			if got := b.files(t, b.next(), &llb.Git{Remote: remote, Ref: ref, Checksum: commit}); got != "0644 0:0 f \"one\\n\" @1000000000\n" {
				t.Errorf("%s#%s: %s", remote, ref, got)
			}
		}
	}
}

func TestGitKeep(t *testing.T) {
	s := newGitSite(t)
	testkit.GitRepo(t, s.dir("r"), "f", "one\n", "sub/g", "g\n")
	testkit.Git(t, s.dir("r"), "tag", "-a", "-m", "tag", "v1")
	b := newBuilds(t)
	remote := strings.Replace(s.URL, "://", "://user:password@", 1) + "/r.git"
	for _, ref := range []string{"", "v1"} {
		got := b.files(t, b.next(), &llb.Git{Remote: remote, Ref: ref, KeepGitDir: true})
		for _, want := range []string{" .git/config ", " .git/HEAD ", " .git/objects d", " f \"one"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is missing: %s", want, got)
			}
		}
		if strings.Contains(got, "password") || strings.Contains(got, "/hooks") || strings.Contains(got, "FETCH_HEAD") {
			t.Errorf("too much is kept: %s", got)
		}
	}
	if got := b.files(t, b.next(), &llb.Git{Remote: remote, Subdir: "sub", KeepGitDir: true}); strings.Contains(got, ".git") {
		t.Errorf("a folder has no .git: %s", got)
	}
}

func TestGitSubmodules(t *testing.T) {
	s := newGitSite(t)
	testkit.GitRepo(t, s.dir("inner"), "f", "inner\n")
	testkit.GitRepo(t, s.dir("r"), "f", "one\n")
	testkit.Git(t, s.dir("r"), "submodule", "--quiet", "add", s.dir("inner"), "mod")
	testkit.Git(t, s.dir("r"), "config", "-f", ".gitmodules", "submodule.mod.url", "../inner.git")
	testkit.GitCommit(t, s.dir("r"))
	b := newBuilds(t)
	got := b.files(t, b.next(), &llb.Git{Remote: s.URL + "/r.git"})
	if !strings.Contains(got, "mod/f \"inner") || strings.Contains(got, "mod/.git ") {
		t.Errorf("got %s", got)
	}
	got = b.files(t, b.next(), &llb.Git{Remote: s.URL + "/r.git", SkipSubmodules: true})
	if strings.Contains(got, "mod/f") || !strings.Contains(got, "0755 0:0 mod d") {
		t.Errorf("got %s", got)
	}
	// A repository must not make us read what is on this host, or run what it says.
	mark := filepath.Join(t.TempDir(), "mark")
	for _, address := range []string{"file://" + s.dir("inner"), s.dir("inner"), "ext::touch " + mark, "ssh://-oProxyCommand=touch${IFS}" + mark + "/x", "-u./x"} {
		testkit.Git(t, s.dir("r"), "config", "-f", ".gitmodules", "submodule.mod.url", address)
		testkit.GitCommit(t, s.dir("r"))
		b.fails(t, &llb.Git{Remote: s.URL + "/r.git"}, "git: ")
		if _, err := os.Stat(mark); err == nil {
			t.Fatalf("%s: a program of the repository ran", address)
		}
	}
}

// Nothing of a repository and nothing of this user's configuration runs or counts.
func TestGitRunsNothing(t *testing.T) {
	s := newGitSite(t)
	mark := filepath.Join(t.TempDir(), "mark")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("GIT_DIR", "/nonexistent")
	t.Setenv("GIT_SSH_COMMAND", "touch "+mark)
	t.Setenv("GIT_ASKPASS", "/bin/false")
	config := "[core]\n\tfsmonitor = touch " + mark + "\n\thooksPath = " + home + "\n[filter \"x\"]\n\tsmudge = touch " + mark + "\n\trequired\n[url \"/nonexistent/\"]\n\tinsteadOf = http\n"
	os.WriteFile(home+"/.gitconfig", []byte(config), 0o644)
	os.WriteFile(home+"/post-checkout", []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o755)
	testkit.GitRepo(t, s.dir("r"), "f", "one\r\n", ".gitattributes", "f filter=x\n", "hooks/post-checkout", "x")
	b := newBuilds(t)
	for _, keep := range []bool{false, true} {
		if got := b.files(t, b.next(), &llb.Git{Remote: s.URL + "/r.git", KeepGitDir: keep}); !strings.Contains(got, `f "one\r\n"`) {
			t.Errorf("got %s", got)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program ran that was none of ours")
	}
	for _, remote := range []string{"ext::touch " + mark, "ssh://-oProxyCommand=touch/x", "git@-oProxyCommand:x", "ssh:", "ssh:///x", "/srv/r", "-u./x", "file://h/r"} {
		b.fails(t, &llb.Git{Remote: remote}, remote+": ")
	}
}

// onPath puts a script in front of a program, which it may run as "$REAL".
func onPath(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// A token goes to the server it is for: not to others on this host by way of arguments, not to where the server redirects.
func TestGitCredentials(t *testing.T) {
	inner := newGitSite(t)
	testkit.GitRepo(t, inner.dir("r"), "f", "one\n")
	const basic = "basic eC1hY2Nlc3MtdG9rZW46c2VjcmV0dG9rZW4=" // x-access-token:secrettoken
	var outer *httptest.Server
	outer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch auth := r.Header.Get("Authorization"); {
		case strings.HasPrefix(r.URL.Path, "/moved"):
			http.Redirect(w, r, inner.URL+strings.TrimPrefix(r.URL.Path, "/moved")+"?"+r.URL.RawQuery, http.StatusFound)
		case auth != basic && auth != "basic dTpw" && auth != "Custom":
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		default:
			inner.Config.Handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(outer.Close)
	log := filepath.Join(t.TempDir(), "log")
	onPath(t, "git", `echo "$@" >> `+log+"\nPATH=${PATH#*:} exec git \"$@\"\n")

	b := newBuilds(t)
	op := &llb.Git{Remote: outer.URL + "/r.git"}
	b.fails(t, op, "could not read Username")
	b.secrets["GIT_AUTH_TOKEN"] = "secrettoken\n"
	if got := b.files(t, b.next(), op); !strings.Contains(got, "one") {
		t.Errorf("got %s", got)
	}
	b.secrets["GIT_AUTH_TOKEN"] = "wrong"
	b.fails(t, op, "git: ")
	b.secrets["GIT_AUTH_HEADER."+strings.TrimPrefix(outer.URL, "http://")] = "Custom" // the more exact name wins
	b.files(t, b.next(), op)
	inner.requests()
	b.fails(t, &llb.Git{Remote: outer.URL + "/moved/r.git"}, "returned error: 302")
	if got := inner.requests(); strings.Contains(got, "Custom") {
		t.Errorf("the token went on to %q", got)
	}
	clear(b.secrets)
	b.files(t, b.next(), &llb.Git{Remote: outer.URL + "/moved/r.git"}) // without a token redirects are followed
	userinfo := strings.Replace(outer.URL, "://", "://u:p@", 1)
	b.files(t, b.next(), &llb.Git{Remote: userinfo + "/r.git"})
	text, err := os.ReadFile(log)
	if err != nil || len(text) == 0 {
		t.Fatal("git was not seen", err)
	}
	if regexp.MustCompile(`secrettoken|u:p|basic|Custom`).Match(text) {
		t.Errorf("arguments of git hold a secret: %s", text)
	}
}

func TestGitSSH(t *testing.T) {
	root := t.TempDir()
	testkit.GitRepo(t, root+"/r", "f", "one\n")
	home := t.TempDir()
	t.Setenv("HOME", home)
	os.MkdirAll(home+"/.ssh", 0o700)
	os.WriteFile(home+"/.ssh/known_hosts", []byte("known\n"), 0o600)
	log := filepath.Join(t.TempDir(), "log")
	// It does what ssh would: it runs the last argument, there.
	onPath(t, "ssh", `{ echo "$@"; echo "agent $SSH_AUTH_SOCK"; for a; do case $a in UserKnownHostsFile=*) cat "${a#*=}";; esac; done; } >> `+log+`
for a; do last=$a; done
exec sh -c "$last"
`)
	b := newBuilds(t)
	for _, remote := range []string{"ssh://git@example.com" + root + "/r", "git@example.com:" + root + "/r"} {
		r := b.next()
		r.Agent = func(dir string) (string, func(), error) { return dir + "/agent", func() {}, nil }
		if got := b.files(t, r, &llb.Git{Remote: remote}); !strings.Contains(got, "one") {
			t.Errorf("got %s", got)
		}
	}
	text, _ := os.ReadFile(log)
	for _, want := range []string{"-F /dev/null -o BatchMode=yes -o IdentityFile=none", "StrictHostKeyChecking=accept-new", "\nknown\n", "/agent\n", " git@example.com "} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("ssh lacks %q: %s", want, text)
		}
	}
}

// The configuration of somebody else's repository is not obeyed.
func TestGitOfAnother(t *testing.T) {
	dir := t.TempDir()
	testkit.GitRepo(t, dir, "f", "one\n")
	if err := os.Chown(dir+"/.git", 1, 1); err != nil {
		t.Skip("only root can give a file away")
	}
	b := newBuilds(t)
	_, err := b.next().Pin(t.Context(), &llb.Git{Remote: "file://" + dir})
	var far *RemoteError
	if !errors.As(err, &far) || !strings.Contains(far.Hint, "belongs to somebody else") {
		t.Errorf("error %v", err)
	}
}

func TestNoGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b := newBuilds(t)
	b.fails(t, &llb.Git{Remote: "https://example.com/r.git"}, "the git program is not installed")
}

// Of all that git says the line is shown that says why.
func TestGitError(t *testing.T) {
	const more = "\nPlease make sure you have the correct access rights\nand the repository exists.\n"
	for said, want := range map[string]string{
		"":                                     "git: it said nothing",
		"fatal: repository 'x' not found\n":    "git: repository 'x' not found",
		"remote: no\nfatal: one\nfatal: two\n": "git: one",
		"warning: w\nsomething\n":              "git: something",
		"error: e\nfatal: f\n":                 "git: e",
		"fatal: Could not read from remote repository.\n" + more:                                                                                                                  "git: Could not read from remote repository.",
		"ssh: connect to host h port 22: Connection refused\r\nfatal: Could not read from remote repository.\n" + more:                                                            "git: ssh: connect to host h port 22: Connection refused",
		"Warning: Permanently added 'h' (ED25519) to the list of known hosts.\r\ngit@h: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n" + more: "git: git@h: Permission denied (publickey).",
	} {
		if got := (&gitError{said}).Error(); got != want {
			t.Errorf("%q is shown as %q, want %q", said, got, want)
		}
	}
}

func TestFindRef(t *testing.T) {
	const list = "ref: refs/heads/main\tHEAD\n1\tHEAD\n1\trefs/heads/main\n2\trefs/heads/both\n3\trefs/tags/both\n4\trefs/tags/v1\n5\trefs/tags/v1^{}\n6\trefs/heads/x/main\n"
	for ref, want := range map[string]gitRecord{
		"":                {Ref: "refs/heads/main", Object: "1"},
		"main":            {Ref: "refs/heads/main", Object: "1"},
		"both":            {Ref: "refs/heads/both", Object: "2"},
		"refs/tags/both":  {Ref: "refs/tags/both", Object: "3"},
		"tags/both":       {Ref: "refs/tags/both", Object: "3"},
		"v1":              {Ref: "refs/tags/v1", Object: "4", Commit: "5"},
		"x/main":          {Ref: "refs/heads/x/main", Object: "6"},
		"heads/x/main":    {Ref: "refs/heads/x/main", Object: "6"},
		"nosuch":          {},
		"refs/heads/none": {},
	} {
		got, ok := findRef(list, ref)
		if ok != (want != gitRecord{}) || ok && got != want {
			t.Errorf("%s: %+v %v", ref, got, ok)
		}
	}
}

// What git is given starts as we understand it: by a transport that was looked at.
func FuzzGitTransport(f *testing.F) {
	for _, remote := range []string{"https://h/r.git", "git@h:r", "ssh://u@h:22/r", "git://h/r", "file:///r", "ext::sh", "ssh://-o/x", "ssh:", "a::b@c:d", "HTTP://h/x"} {
		f.Add(remote)
	}
	f.Fuzz(func(t *testing.T, remote string) {
		transport, err := gitTransport(remote)
		if err != nil {
			return
		}
		start, rest, isURL := strings.Cut(remote, "://")
		switch {
		case isURL && !strings.Contains(start, "@"):
			if !strings.EqualFold(start, transport) {
				t.Errorf("%q is taken for %s", remote, transport)
			}
		case transport != "ssh":
			t.Errorf("%q is taken for %s", remote, transport)
		default: // as scp writes it
			user, _, ok := strings.Cut(remote, "@")
			if !ok || user == "" {
				t.Errorf("%q is taken for %s", remote, transport)
			}
		}
		if strings.HasPrefix(rest, "-") && isURL {
			t.Errorf("%q names an option", remote)
		}
	})
}
