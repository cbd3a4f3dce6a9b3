package testkit

import (
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitEnv makes commits the same everywhere.
var gitEnv = []string{
	"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent", "LC_ALL=C",
	"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=1000000000 +0000",
	"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=1000000000 +0000",
}

// Git runs git in dir, as an author of the year 2001, and returns what it prints.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	needGit(t)
	cmd := exec.Command("git", append([]string{"-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", "-C", dir}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, gitEnv...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// GitRepo makes a repository in dir with one commit of files, which are name and content in turn, and
// returns the commit. The first arguments that begin with a dash are for git init.
func GitRepo(t testing.TB, dir string, files ...string) string {
	t.Helper()
	init := []string{"init", "-q"}
	for len(files) > 0 && strings.HasPrefix(files[0], "-") {
		init, files = append(init, files[0]), files[1:]
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Git(t, dir, init...)
	return GitCommit(t, dir, files...)
}

// GitCommit writes files, which are name and content in turn, commits all that changed, and returns the commit.
func GitCommit(t testing.TB, dir string, files ...string) string {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		file := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	Git(t, dir, "add", "-A")
	Git(t, dir, "commit", "-q", "--allow-empty", "-m", "commit")
	return Git(t, dir, "rev-parse", "HEAD")
}

// GitServer serves the repositories below root, /r.git for the repository of a folder r. It speaks the smart protocol; below
// /dumb/ are the plain files of a server that knows nothing of git.
func GitServer(t testing.TB, root string) http.Handler {
	t.Helper()
	needGit(t)
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	folder := func(r *http.Request) *http.Request { // r.git is the folder .git in r
		c := r.Clone(r.Context())
		c.URL.Path = strings.Replace(c.URL.Path, ".git/", "/.git/", 1)
		return c
	}
	smart := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:    append([]string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}, gitEnv...),
		Stderr: io.Discard, // clients say it too
	}
	dumb := http.FileServer(http.Dir(root))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/dumb/"); ok {
			r = folder(r)
			r.URL.Path = "/" + strings.Replace(path, ".git/", "/.git/", 1)
			dumb.ServeHTTP(w, r)
			return
		}
		smart.ServeHTTP(w, folder(r))
	})
}

func needGit(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
}
