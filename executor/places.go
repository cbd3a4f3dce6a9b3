package executor

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/seed0570efb0/build/snapshot"
)

// places are the mount points that a root file system lacks, with the folders they are in, as a tree that is put
// above its layers. Folders that the root has look in it as they do there, since overlayfs shows the topmost ones.
type places struct {
	view    *snapshot.View
	entries map[string]snapshot.Entry
}

// add makes sure that a file or a folder is at target. What cannot be there, since something else is in the
// way, is left for the mount to fail on.
func (p *places) add(target string, kind snapshot.Type) error {
	at, err := snapshot.Resolve(p.view, target, true)
	if err != nil {
		return err
	}
	if top, _, _ := strings.Cut(at, "/"); top == "proc" || top == "sys" || top == "dev" {
		return nil // the sandbox's own
	}
	if _, ok, err := p.view.Lstat(at); ok || err != nil {
		return err
	}
	missing := snapshot.Entry{Path: at, Type: kind, Mode: 0o644}
	if kind == snapshot.Dir {
		missing.Mode = 0o755
	}
	way, ok, err := p.way(at)
	if err != nil || !ok {
		return err
	}
	if _, ok := p.entries[at]; !ok {
		p.put(missing)
	}
	for _, e := range way {
		p.put(e)
	}
	return nil
}

// way returns the folders that at is in; ok is not set when something else is in the way.
func (p *places) way(at string) (way []snapshot.Entry, ok bool, err error) {
	for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
		e, there, err := p.view.Lstat(dir)
		if err != nil {
			return nil, false, err
		}
		if !there {
			e = snapshot.Entry{Type: snapshot.Dir, Mode: 0o755}
		}
		if e.Type != snapshot.Dir {
			return nil, false, nil
		}
		e.Path, e.Opaque = dir, false
		way = append(way, e)
	}
	return way, true, nil
}

func (p *places) put(e snapshot.Entry) {
	if p.entries == nil {
		p.entries = map[string]snapshot.Entry{}
	}
	p.entries[e.Path] = e
}

// list returns the tree, folders before what is in them.
func (p *places) list() []snapshot.Entry {
	var out []snapshot.Entry
	for _, at := range slices.Sorted(maps.Keys(p.entries)) {
		out = append(out, p.entries[at])
	}
	return out
}
