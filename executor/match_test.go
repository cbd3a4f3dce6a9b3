package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/llb"
)

// Files are hashed in batches; the key is that of all of them, and knows hard links from one batch to another.
func TestKeyOfManyFiles(t *testing.T) {
	const files = 2*batch + 3 // and their folder
	name := func(i int) string { return fmt.Sprintf("many/%05d", i) }
	specs := make([]string, files)
	for i := range specs {
		specs[i] = name(i) + " = same"
	}
	x, dir := newExecutor(t), t.TempDir()
	file := func(i int) string { return filepath.Join(dir, name(i)) }
	write := func(i int) func() error {
		return func() error { return os.WriteFile(file(i), []byte("else"), 0o644) }
	}
	link := func(from, to int) func() error {
		return func() error { return errors.Join(os.Remove(file(to)), os.Link(file(from), file(to))) }
	}
	v := copyOf(&llb.Copy{Sources: []llb.Source{{Path: "/many"}}, Dest: "/"})
	x.folder(t, dir, specs...)
	known := map[cache.Key]string{key(t, x, v): "nothing"}
	for _, change := range []struct {
		what  string
		apply func() error
	}{
		{"the first file", write(0)},
		{"the last file of a batch", write(batch - 2)},
		{"the first file of the next", write(batch - 1)},
		{"the last file", write(files - 1)},
		{"a link from one batch to another", link(1, files-2)},
		{"the same from another file", link(2, files-2)},
		{"a link over one border", link(batch-3, batch+1)},
	} {
		if err := change.apply(); err != nil {
			t.Fatal(err)
		}
		x.folder(t, dir)
		k := key(t, x, v)
		if other, ok := known[k]; ok {
			t.Errorf("%s: the key is still that of %s", change.what, other)
		}
		known[k] = change.what
	}
}
