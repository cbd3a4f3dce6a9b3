// Package history keeps records of builds, and says why a step of one was not reused.
//
// A record has two halves. The *graph* is what was asked for: each step with its definition in plain fields, its keys, and what
// it selects of its inputs. It is named by its content, so a build that changes nothing shares the graph of the one before. The
// *build* is what became of it: which steps ran, for how long, and the cause of each. Beside them lie the facts of single steps,
// by definition key, and lists of selected files, by the digest that counts in the keys.
//
// The package decides nothing: the solver runs and reuses, a Recorder listens. What is lost or damaged here costs an answer,
// never a build.
package history

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
)

// Keep is how many builds are remembered. As many again, and some, may pile up before the oldest are removed.
const Keep = 100

// forgetting begins the IDs of builds that look whether there are too many: one in 32, by chance. To list the records takes as long as to
// write one.
const forgetting = "a"

// A Log holds the records of one store. It is safe for concurrent use, by other processes too.
type Log struct {
	disk *cache.Store
	// listed are the selections whose files this process knows to be kept: the steps of a build often select the same.
	listed sync.Map // digest.Digest -> true
}

// Open returns the records in disk.
func Open(disk *cache.Store) *Log { return &Log{disk: disk} }

// A Subject is what a build is about. Builds of one subject are compared with each other.
type Subject struct {
	// Context is the folder or the address, Dockerfile the path of a file that lies elsewhere than usual.
	Context    string   `json:"context"`
	Dockerfile string   `json:"dockerfile,omitempty"`
	Target     string   `json:"target,omitempty"`
	Platform   string   `json:"platform"`
	Tags       []string `json:"tags,omitempty"`
}

// A Status says how a build, or a step of it, has ended.
type Status string

// The ends of a build; a step that ran has one of them too.
const (
	Done     Status = "done"
	Failed   Status = "failed"
	Canceled Status = "canceled"
)

// A Build is the record of one build.
type Build struct {
	ID      string        `json:"id"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took"` // nanoseconds, as all durations here
	Subject Subject       `json:"subject"`
	Status  Status        `json:"status"`
	Graph   digest.Digest `json:"graph"`
	// Before is the ID of the build that the causes are about, if any step had one.
	Before string `json:"before,omitempty"`
	// Steps are those that were not reused by their definition, and sources that changed. Of the others there is nothing to say.
	Steps []Outcome `json:"steps,omitempty"`
	// Reused is how many steps were reused.
	Reused int `json:"reused"`
}

// An Outcome is what became of a step that was not reused by its definition.
type Outcome struct {
	Step int `json:"step"` // its place in the graph
	// Content is set when the step was reused, since what it reads was known though its definition was not.
	Content bool   `json:"content,omitempty"`
	Status  Status `json:"status"`
	// Took is how long it ran; 0 is not at all.
	Took  time.Duration `json:"took,omitempty"`
	Cause Cause         `json:"cause,omitzero"` // of running, or of a source's being another one
	Usage *Usage        `json:"usage,omitempty"`
}

// A Usage is what the process of a step has used: bytes, and nanoseconds of all processors together.
type Usage struct {
	CPU     time.Duration `json:"cpu"`
	Memory  int64         `json:"memory"` // the peak; 0 is not known
	Read    int64         `json:"read"`   // from disks
	Written int64         `json:"written"`
}

// Ran returns how many steps the build has run.
func (b *Build) Ran() (n int) {
	for _, o := range b.Steps {
		if o.Took > 0 {
			n++
		}
	}
	return n
}

// Outcome returns what became of a step.
func (b *Build) Outcome(step int) Outcome {
	for _, o := range b.Steps {
		if o.Step == step {
			return o
		}
	}
	return Outcome{Step: step, Status: Done}
}

// Facts are what is known of a step by its definition key.
type Facts struct {
	Content digest.Digest `json:"content"` // its content key
	// Took is how long it ran; 0 is not known.
	Took time.Duration `json:"took,omitempty"`
	// Files are what it read of its inputs, as in Step.
	Files []Selection `json:"files,omitempty"`
}

const buildsDir = "history/builds"

func fileOf(kind string, d digest.Digest) string {
	h := d.Hex()
	return filepath.Join("history", kind, h[:2], h[2:])
}

// write writes a record as JSON.
func (l *Log) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return l.disk.WriteFile(name, append(b, '\n'))
}

// read reads a record into v. One that is damaged is none.
func (l *Log) read(name string, v any) bool {
	b, err := l.disk.ReadFile(name)
	return err == nil && json.Unmarshal(b, v) == nil
}

// has reports whether there is a record. A power cut may have emptied it.
func (l *Log) has(name string) bool {
	fi, err := os.Stat(l.disk.Path(name))
	return err == nil && fi.Size() > 0
}

// touch makes a record young, and reports whether it is there.
func (l *Log) touch(name string) bool {
	now := time.Now()
	return os.Chtimes(l.disk.Path(name), now, now) == nil
}

// names returns the records of builds, newest first: their names begin with the time.
func (l *Log) names() ([]string, error) {
	entries, err := os.ReadDir(l.disk.Path(buildsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range slices.Backward(entries) {
		names = append(names, e.Name())
	}
	return names, nil
}

// Builds calls f with the builds that are remembered, newest first, until it returns false.
func (l *Log) Builds(f func(*Build) bool) error {
	names, err := l.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		b := &Build{}
		if l.read(filepath.Join(buildsDir, name), b) && !f(b) {
			return nil
		}
	}
	return nil
}

// ErrNoBuild is wrapped by Find's errors.
var ErrNoBuild = errors.New("no such build")

// shortest is how much of an ID names a build: less could be a word.
const shortest = 4

// Find returns the build that text names: the beginning of an ID, or a tag, which is that of the newest build with it.
func (l *Log) Find(text string) (*Build, error) {
	var found, tagged *Build
	several := false
	err := l.Builds(func(b *Build) bool {
		if len(text) >= shortest && strings.HasPrefix(b.ID, text) {
			several, found = found != nil, cmp.Or(found, b)
		}
		if tagged == nil && slices.ContainsFunc(b.Subject.Tags, func(tag string) bool { return sameTag(tag, text) }) {
			tagged = b
		}
		return !several
	})
	switch {
	case err != nil:
		return nil, err
	case several:
		return nil, fmt.Errorf("%w: several begin with %q", ErrNoBuild, text)
	case found == nil && tagged == nil:
		return nil, fmt.Errorf("%w: %q", ErrNoBuild, text)
	}
	return cmp.Or(found, tagged), nil
}

// sameTag reports whether text is a full name of an image, or short for it.
func sameTag(full, text string) bool {
	if !strings.Contains(text[strings.LastIndex(text, "/")+1:], ":") {
		text += ":latest"
	}
	return full == text || full == "docker.io/"+text || full == "docker.io/library/"+text
}

// Before returns the build that one of this subject is compared with, or nil when there is none: the newest with the same
// context, file, target and platform; else one that differs in target and platform; else one with a tag in common, since a
// checkout may be somewhere else each time. It looks at builds that are older than before, unless that is nil.
func (l *Log) Before(s Subject, before *Build) (*Build, error) {
	var same, near, tagged *Build
	err := l.Builds(func(b *Build) bool {
		o := b.Subject
		switch {
		case before != nil && (b.ID == before.ID || !b.Began.Before(before.Began)):
		case s.Context == o.Context && s.Dockerfile == o.Dockerfile && s.Target == o.Target && s.Platform == o.Platform:
			same = b
		case s.Context == o.Context && s.Dockerfile == o.Dockerfile:
			near = cmp.Or(near, b)
		case slices.ContainsFunc(o.Tags, func(tag string) bool { return slices.Contains(s.Tags, tag) }):
			tagged = cmp.Or(tagged, b)
		}
		return same == nil
	})
	return cmp.Or(same, near, tagged), err
}

// Graph returns the graph of a build, or nil when it is lost.
func (l *Log) Graph(b *Build) *Graph {
	g := &Graph{}
	if b == nil || !l.read(fileOf("graphs", b.Graph), g) || !g.valid() {
		return nil
	}
	return g
}

// Facts returns what is known of the step with that definition key.
func (l *Log) Facts(definition digest.Digest) (f Facts, ok bool) {
	if definition.IsZero() {
		return f, false
	}
	return f, l.read(fileOf("steps", definition), &f)
}

// Save keeps the record of a build with its graph, and now and then forgets the oldest ones.
func (l *Log) Save(b *Build, g *Graph) error {
	b.Graph = g.name()
	if name := fileOf("graphs", b.Graph); !l.has(name) {
		g.describe()
		// What the graph points at must not look older than it: see forget.
		for _, s := range g.Steps {
			l.touch(fileOf("steps", s.Definition))
			for _, f := range s.Files {
				l.touch(fileOf("files", f.Digest))
			}
		}
		if err := l.write(name, g); err != nil {
			return err
		}
	}
	name := b.Began.UTC().Format("20060102T150405.000000") + "-" + b.ID
	if err := l.write(filepath.Join(buildsDir, name), b); err != nil {
		return err
	}
	if !strings.HasPrefix(b.ID, forgetting) {
		return nil
	}
	return l.forget()
}

// forget removes the oldest builds when there are many, and what only they point at.
func (l *Log) forget() error {
	names, err := l.names()
	if err != nil || len(names) <= 2*Keep {
		return err
	}
	for _, name := range names[Keep:] {
		if err := os.Remove(l.disk.Path(filepath.Join(buildsDir, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.sweep(time.Now())
}

// grace is how old a record must be to be removed since nothing points at it: a build that is under way may be about to.
const grace = time.Hour

// sweep removes what no build points at. What a graph points at was made as young as the graph when that was written, so what is
// older than all graphs that are kept belongs to none of them: no graph has to be read.
func (l *Log) sweep(now time.Time) error {
	kept := map[string]bool{}
	if err := l.Builds(func(b *Build) bool { kept[fileOf("graphs", b.Graph)] = true; return true }); err != nil {
		return err
	}
	oldest := now
	err := l.each("graphs", func(name string, fi fs.FileInfo) {
		if kept[name] && fi.ModTime().Before(oldest) {
			oldest = fi.ModTime()
		}
	})
	if err != nil {
		return err
	}
	remove := func(name string, fi fs.FileInfo) {
		if fi.ModTime().Before(oldest.Add(-grace)) && !kept[name] {
			os.Remove(l.disk.Path(name)) // what stays goes the next time
		}
	}
	return errors.Join(l.each("graphs", remove), l.each("steps", remove), l.each("files", remove))
}

// each calls f with the records of a kind.
func (l *Log) each(kind string, f func(name string, fi fs.FileInfo)) error {
	root := l.disk.Path(filepath.Join("history", kind))
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if fi, err := d.Info(); err == nil {
			rel, _ := filepath.Rel(l.disk.Root(), p) // p is below
			f(rel, fi)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
