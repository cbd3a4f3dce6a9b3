package snapshot

import (
	"context"
	"strings"
)

// WriteTree copies what is at p in t, and all in it, into the folder dir under name, with
// everything that a layer would keep of it.
func WriteTree(ctx context.Context, t Tree, p, dir, name string) error {
	var list []Entry
	names := map[string]string{} // inode -> the first name
	err := Walk(t, p, func(e Entry) (bool, error) {
		list = append(list, e)
		return true, context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	place := func(q string) string {
		if p == "." {
			return Clean(name + "/" + q)
		}
		return name + strings.TrimPrefix(q, p)
	}
	return writeEntries(dir, list, func(x *extractor, e Entry) error {
		from := e
		e.Path = place(e.Path)
		if e.Type != Regular {
			return x.entry(&e, nil)
		}
		if first, ok := names[e.Inode]; ok && e.Inode != "" {
			e.Type, e.Link = Hardlink, first
			return x.entry(&e, nil)
		}
		names[e.Inode] = e.Path
		if err := context.Cause(ctx); err != nil {
			return err
		}
		r, err := t.Open(from)
		if err != nil {
			return err
		}
		defer r.Close()
		return x.entry(&e, r)
	})
}

// WriteEntries makes entries, ordered by path, in the folder dir. Files are empty.
func WriteEntries(dir string, entries []Entry) error {
	return writeEntries(dir, entries, func(x *extractor, e Entry) error {
		return x.entry(&e, strings.NewReader(""))
	})
}

func writeEntries(dir string, entries []Entry, write func(x *extractor, e Entry) error) error {
	x, err := newExtractor(dir)
	if err != nil {
		return err
	}
	defer x.Close()
	for _, e := range entries {
		if err := write(x, e); err != nil {
			return err
		}
	}
	return x.finish()
}
