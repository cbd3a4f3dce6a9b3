package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/util/gitutil"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// A gitPlace is a commit of a git repository, which the git program reads.
type gitPlace struct {
	*Remote
	op *llb.Git
	at gitRecord
}

// A gitRecord is what a ref of a repository meant when it was asked for last.
type gitRecord struct {
	Ref    string `json:"ref"`              // whole, like "refs/heads/main"; "" when a commit was asked for
	Object string `json:"object"`           // what the ref names: a commit, or a tag that is an object
	Commit string `json:"commit,omitempty"` // what such a tag names
	Build  string `json:"build"`            // that asked
}

const hexDigits = "0123456789abcdefABCDEF"

func (p *gitPlace) fail(format string, args ...any) error {
	return &RemoteError{Name: p.op.Name(), Err: fmt.Errorf(format, args...)}
}

// pin implements place.
func (p *gitPlace) pin(ctx context.Context) (digest.Digest, error) {
	if err := p.find(ctx); err != nil {
		return digest.Digest{}, err
	}
	h := digest.NewHasher("pin.git/v1")
	h.String("subdir", p.op.Subdir)
	h.Bool("submodules", !p.op.SkipSubmodules)
	h.Bool("checkout time", p.op.CheckoutTime)
	if p.keepsGitDir() { // it knows the ref and where it came from
		h.String("object", p.at.Object)
		h.String("ref", p.at.Ref)
		h.String("remote", p.op.Name())
	} else {
		h.String("commit", p.at.commit())
	}
	return h.Sum(), nil
}

func (r *gitRecord) commit() string {
	if r.Commit != "" {
		return r.Commit
	}
	return r.Object
}

func (p *gitPlace) keepsGitDir() bool { return p.op.KeepGitDir && p.op.Subdir == "" }

// find finds out which commit is meant. A whole hash says it without a question.
func (p *gitPlace) find(ctx context.Context) error {
	op := p.op
	switch {
	case strings.HasPrefix(op.Ref, "-"):
		return p.fail("invalid git ref %q", op.Ref)
	case op.Checksum != "" && strings.Trim(op.Checksum, hexDigits) != "":
		return p.fail("invalid checksum %s for Git URL, expected hex commit hash", op.Checksum)
	case gitutil.IsCommitSHA(op.Ref):
		p.at.Object = op.Ref
		return p.check()
	case op.FetchByCommit:
		if !gitutil.IsCommitSHA(op.Checksum) {
			return p.fail("fetch-by-commit requires a full commit SHA checksum, got %q", op.Checksum)
		}
		p.at.Object = op.Checksum
		if op.Ref != "" {
			p.at.Ref = "refs/heads/" + strings.TrimPrefix(op.Ref, "refs/heads/")
			if strings.HasPrefix(op.Ref, "refs/") {
				p.at.Ref = op.Ref
			}
		}
		return nil
	}
	if err := p.ask(ctx); err != nil {
		return err
	}
	return p.check()
}

// check compares what was found with the checksum.
func (p *gitPlace) check() error {
	want, got := strings.ToLower(p.op.Checksum), p.at.Object
	if strings.HasPrefix(got, want) || strings.HasPrefix(p.at.Commit, want) {
		return nil
	}
	if p.at.Commit != "" {
		got += " or " + p.at.Commit
	}
	return p.fail("expected checksum to match %s, got %s", p.op.Checksum, got)
}

// ask asks the repository what the ref means.
func (p *gitPlace) ask(ctx context.Context) error {
	record := remoteRecord("git", p.op.Remote, p.op.Ref)
	unlock, err := p.disk.Lock(ctx, record)
	if err != nil {
		return err
	}
	defer unlock()
	p.readRecord(record, &p.at)
	if p.at.Build == p.build && p.at.Object != "" {
		return nil
	}
	git, err := p.newGit()
	if err != nil {
		return err
	}
	defer git.close()
	args := []string{"ls-remote", "--symref", "--", git.url, "HEAD"}
	if p.op.Ref != "" {
		args = []string{"ls-remote", "--", git.url, p.op.Ref, p.op.Ref + "^{}"}
	}
	out, err := git.run(ctx, args...)
	if err != nil {
		return err
	}
	found, ok := findRef(out, p.op.Ref)
	if !ok && p.op.Ref == "" {
		return p.fail("could not find default branch for repository")
	}
	if !ok {
		return p.fail("repository does not contain ref %s", p.op.Ref)
	}
	if !gitutil.IsCommitSHA(found.Object) || found.Commit != "" && !gitutil.IsCommitSHA(found.Commit) {
		return p.fail("invalid commit sha %q", found.Object)
	}
	p.at, p.at.Build = found, p.build
	return p.writeRecord(record, &p.at)
}

// findRef returns what ref means in the output of ls-remote; "" is where HEAD points to. Of a branch and a tag of
// one name the branch is meant.
func findRef(out, ref string) (gitRecord, bool) {
	objects, head := map[string]string{}, ""
	for line := range strings.Lines(out) {
		object, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if target, ok := strings.CutPrefix(object, "ref: "); ok && name == "HEAD" {
			head = target
			continue
		}
		objects[name] = object
	}
	if ref == "" {
		return gitRecord{Ref: head, Object: objects["HEAD"]}, objects["HEAD"] != ""
	}
	for _, name := range []string{"refs/" + strings.TrimPrefix(ref, "refs/"), "refs/heads/" + strings.TrimPrefix(ref, "refs/heads/")} {
		if object := objects[name]; object != "" {
			return gitRecord{Ref: name, Object: object, Commit: objects[name+"^{}"]}, true
		}
	}
	name := "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
	return gitRecord{Ref: name, Object: objects[name], Commit: objects[name+"^{}"]}, objects[name] != ""
}

// fetch implements place.
func (p *gitPlace) fetch(ctx context.Context) (digest.Digest, error) {
	git, err := p.newGit()
	if err != nil {
		return digest.Digest{}, err
	}
	defer git.close()
	mtime, err := p.checkOut(ctx, git)
	if err != nil {
		return digest.Digest{}, err
	}
	if p.op.CheckoutTime {
		mtime = time.Now().Unix()
	}
	root, err := p.subdir(git.work)
	if err != nil {
		return digest.Digest{}, err
	}
	files, err := NewLocal(root, nil, nil)
	if err != nil {
		return digest.Digest{}, err
	}
	defer files.Close()
	return p.layer(ctx, files, mtime)
}

// checkOut puts the files of the commit into the folder of git, and returns the time of the commit.
func (p *gitPlace) checkOut(ctx context.Context, git *git) (int64, error) {
	init := []string{"init", "-q"}
	if len(p.at.Object) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if _, err := git.run(ctx, init...); err != nil {
		return 0, err
	}
	if _, err := git.run(ctx, "remote", "add", "origin", git.url); err != nil {
		return 0, err
	}
	if err := p.fetchObject(ctx, git); err != nil {
		return 0, err
	}
	commit, err := git.run(ctx, "rev-parse", "--verify", p.at.Object+"^{commit}")
	if saysOf(err, "Needed a single revision") {
		err = p.fail("repository does not contain commit %s", p.at.Object)
	}
	if err != nil {
		return 0, err
	}
	commit = strings.TrimSpace(commit)
	if want := strings.ToLower(p.op.Checksum); !strings.HasPrefix(p.at.Object, want) && !strings.HasPrefix(commit, want) {
		return 0, p.fail("expected checksum to match %s, got %s", p.op.Checksum, commit)
	}
	if _, err := git.run(ctx, "checkout", "-q", "--detach", commit); err != nil {
		return 0, err
	}
	if err := p.submodules(ctx, git); err != nil {
		return 0, err
	}
	text, err := git.run(ctx, "show", "-s", "--format=%ct", commit)
	if err != nil {
		return 0, err
	}
	mtime, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, p.fail("the time of commit %s: %w", commit, err)
	}
	for _, name := range []string{"FETCH_HEAD", "ORIG_HEAD", "logs", "hooks"} { // of no use where .git is kept
		if err := os.RemoveAll(filepath.Join(git.work, ".git", name)); err != nil {
			return 0, err
		}
	}
	return mtime, nil
}

// fetchObject fetches the object alone. Servers that give out only what refs point to, or all history, are asked
// for as much as it takes.
func (p *gitPlace) fetchObject(ctx context.Context, git *git) error {
	spec := p.at.Object
	if p.keepsGitDir() && p.at.Ref != "" {
		spec += ":" + p.at.Ref
	}
	fetch := func(args ...string) error {
		_, err := git.run(ctx, append([]string{"fetch", "-q", "-u", "--no-tags"}, args...)...)
		return err
	}
	err := fetch("--depth=1", "--", git.url, spec)
	if saysOf(err, "--depth", "shallow") {
		err = fetch("--", git.url, spec)
	}
	if saysOf(err, "not our ref", "unadvertised object", "couldn't find remote ref", "does not allow request") {
		err = fetch("--", git.url, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
	}
	return err
}

func (p *gitPlace) submodules(ctx context.Context, git *git) error {
	fi, err := os.Lstat(filepath.Join(git.work, ".gitmodules"))
	if p.op.SkipSubmodules || err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	update := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
	_, err = git.run(ctx, append(update, "--depth=1")...)
	if saysOf(err, "--depth", "shallow", "not our ref", "unadvertised object", "did not contain") {
		_, err = git.run(ctx, update...)
	}
	return err
}

// subdir returns the folder that is asked for. No link may lead there.
func (p *gitPlace) subdir(work string) (string, error) {
	all, err := NewLocal(work, nil, nil)
	if err != nil {
		return "", err
	}
	defer all.Close()
	at := "."
	for name := range strings.SplitSeq(snapshot.Clean(p.op.Subdir), "/") {
		at = path.Join(at, name)
		e, ok, err := all.Lstat(at)
		switch {
		case err != nil:
			return "", err
		case !ok, name == ".git":
			return "", p.fail("there is no folder %q in commit %s", p.op.Subdir, p.at.commit())
		case !e.IsDir():
			return "", p.fail("git subpath %q contains non-directory %q", p.op.Subdir, at)
		}
	}
	return filepath.Join(work, at), nil
}

// layer makes a layer of files, which belong to root and have the modes that git knows.
func (p *gitPlace) layer(ctx context.Context, files *Local, mtime int64) (digest.Digest, error) {
	empty, err := p.layers.View(ctx, digest.Digest{})
	if err != nil {
		return digest.Digest{}, err
	}
	changes := snapshot.NewChanges(empty)
	err = snapshot.Walk(files, ".", func(e snapshot.Entry) (bool, error) {
		if e.Path == "." {
			return true, context.Cause(ctx)
		}
		if e.Name() == ".git" && !p.keepsGitDir() {
			return false, nil // also the files that point from a submodule to its repository
		}
		from := e
		e.Mode, e.Mtime, e.Inode = gitMode(e), mtime, ""
		return true, changes.Put(e, func() (io.ReadCloser, error) { return files.Open(from) })
	})
	if err != nil {
		return digest.Digest{}, err
	}
	return p.layers.Commit(ctx, digest.Digest{}, changes, snapshot.Making{Created: time.Now()})
}

// gitMode returns the mode of a file, whatever the umask.
func gitMode(e snapshot.Entry) uint32 {
	switch {
	case e.IsDir(), e.Mode&0o100 != 0:
		return 0o755
	case e.Mode&0o200 == 0: // an object in .git
		return 0o444
	}
	return 0o644
}

// saysOf reports whether git failed and said one of these words.
func saysOf(err error, words ...string) bool {
	var failed *gitError
	if !errors.As(err, &failed) {
		return false
	}
	for _, w := range words {
		if strings.Contains(failed.stderr, w) {
			return true
		}
	}
	return false
}
