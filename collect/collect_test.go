package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/snapshot"
	"github.com/seed0570efb0/build/source"
)

// A world is a store as one process sees it.
type world struct {
	*Collector
	t testing.TB
}

func newWorld(t testing.TB, root string) *world {
	t.Helper()
	disk, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(disk.Close)
	layers := snapshot.New(disk, func(context.Context, snapshot.Blob) (io.ReadCloser, error) {
		return nil, errors.New("no registry in this test")
	})
	return &world{&Collector{Disk: disk, Layers: layers, Images: source.NewImages(disk, layers, nil), Now: time.Now}, t}
}

// again returns the store as another process sees it.
func (w *world) again() *world { return newWorld(w.t, w.Disk.Root()) }

// step makes a layer with one file on top of parent, and an index entry, as a step of a build does.
func (w *world) step(parent digest.Digest, name string, size int, took time.Duration) digest.Digest {
	w.t.Helper()
	return w.stepWith(parent, name, strings.Repeat(name[:1], size), took)
}

// stepWith is step of a file that holds body.
func (w *world) stepWith(parent digest.Digest, name, body string, took time.Duration) digest.Digest {
	w.t.Helper()
	view, err := w.Layers.View(w.t.Context(), parent)
	if err != nil {
		w.t.Fatal(err)
	}
	changes := snapshot.NewChanges(view)
	e := snapshot.Entry{Path: name, Type: snapshot.Regular, Mode: 0o644, Size: int64(len(body))}
	if err := changes.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }); err != nil {
		w.t.Fatal(err)
	}
	id, err := w.Layers.Commit(w.t.Context(), parent, changes, snapshot.Making{Created: time.Unix(1_700_000_000, 0)})
	if err == nil {
		err = w.Layers.Describe(id, snapshot.Made{By: "RUN " + name, Took: took})
	}
	if err == nil {
		err = w.Disk.Record(w.t.Context(), keyOf(id), id)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func keyOf(id digest.Digest) cache.Key { return cache.Key(digest.Of(id[:])) }

// tag makes an image of a chain, as a build does when it is done; without a name, too.
func (w *world) tag(name string, id digest.Digest) {
	w.t.Helper()
	chains, err := w.Layers.Chains(id)
	if err != nil {
		w.t.Fatal(err)
	}
	var diffs []string
	for _, c := range chains {
		diffs = append(diffs, fmt.Sprintf("%q", c.Layer))
	}
	config, err := w.Disk.WriteBlob(fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%s]}}`, strings.Join(diffs, ",")))
	if err == nil {
		err = w.Images.Tag(w.t.Context(), name, config)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) usable(id digest.Digest) bool {
	w.t.Helper()
	other := w.again()
	defer other.Disk.Close()
	ok, err := other.Layers.Usable(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return ok
}

// everything is the policy of who wants all of it back.
func everything() Policy { return Policy{All: true, Why: "by a test"} }

func (w *world) evict(p Policy) *Report {
	w.t.Helper()
	r, err := w.Evict(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) list() *Inventory {
	w.t.Helper()
	inv, err := w.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return inv
}

func TestWhatRunningBuildsUseStays(t *testing.T) {
	w := newWorld(t, t.TempDir())
	base := w.step(digest.Digest{}, "base", 100_000, 0)
	a := w.step(base, "a", 100_000, 0)
	b := w.step(base, "b", 100_000, 0)
	w.Disk.Close() // that build is done
	running := w.again()
	if ok, err := running.Layers.Usable(a); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, r := range w.list().Records {
		if want := r.ID == base || r.ID == a; r.Type == Layer && r.InUse != want {
			t.Errorf("%s: in use: %v", r.Description, r.InUse)
		}
	}
	w.evict(everything())
	if !w.usable(a) {
		t.Error("what a running build uses was evicted")
	}
	if w.usable(b) {
		t.Error("what nobody uses was kept")
	}
	running.Disk.Close()
	w.evict(everything())
	if w.usable(a) || w.usable(base) {
		t.Error("what a build has used was kept after its end")
	}
	for _, dir := range []string{"layers", "chains", cache.BlobDir} {
		for d := range w.Disk.Digests(dir) {
			t.Errorf("%s/%s is left", dir, d)
		}
	}
}

func TestWhatTagsNeedStays(t *testing.T) {
	w := newWorld(t, t.TempDir())
	base := w.step(digest.Digest{}, "base", 100_000, 0)
	named := w.step(base, "n", 100_000, 0)
	nameless := w.step(base, "x", 100_000, 0)
	w.tag("app", named)
	w.tag("", nameless)
	w.Disk.Close()
	r := w.evict(everything())
	if len(r.Evicted) != 1 || r.Evicted[0].ID != nameless || r.Freed < 100_000 {
		t.Errorf("evicted %d records, %d bytes", len(r.Evicted), r.Freed)
	}
	images, err := w.Images.List()
	if err != nil || len(images) != 1 {
		t.Fatalf("images %v, %v, want app only", images, err)
	}
	if img, err := w.Images.Load(t.Context(), images[0]); err != nil || img == nil {
		t.Errorf("app: %v, %v", img, err)
	}
}

// The list of a blob's chunks counts with the layer, and goes with it.
func TestChunkListsGoWithTheirBlobs(t *testing.T) {
	w := newWorld(t, t.TempDir())
	id := w.step(digest.Digest{}, "layer", 5_000_000, 0)
	chain, err := w.Layers.Chain(id)
	if err != nil {
		t.Fatal(err)
	}
	before := w.list().Records[0].Size
	blob, err := w.Layers.Compressed(t.Context(), chain, snapshot.Compression{MediaType: snapshot.MediaTypeTarGzip})
	if err != nil {
		t.Fatal(err)
	}
	list, err := w.Disk.ReadFile(snapshot.ChunkFile(blob.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if r := w.list().Records[0]; r.Size < before+blob.Size+int64(len(list)) {
		t.Errorf("%d bytes, with a blob of %d and its list of %d it is %d", before, blob.Size, len(list), r.Size)
	}
	nobody := digest.Of([]byte("a blob that was lost"))
	if err := w.Disk.WriteFile(snapshot.ChunkFile(nobody), list); err != nil {
		t.Fatal(err)
	}
	w.Disk.Close()
	w.evict(everything())
	for d := range w.Disk.Digests(snapshot.ChunkDir) {
		t.Errorf("the list of %s is left", d)
	}
}

// A base image can be had again: its layers go, what is known of it stays.
func TestPulledImagesCanGo(t *testing.T) {
	w := newWorld(t, t.TempDir())
	base := w.step(digest.Digest{}, "base", 100_000, 0)
	chain, err := w.Layers.Chain(base)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := snapshot.Blob{Digest: digest.Of([]byte("compressed")), MediaType: snapshot.MediaTypeTarGzip, Size: 10, Origins: []string{"registry.example/base"}}
	if err := w.Layers.AddBlob(t.Context(), chain.Layer, elsewhere); err != nil {
		t.Fatal(err)
	}
	config, err := w.Disk.WriteBlob(fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, chain.Layer))
	if err != nil {
		t.Fatal(err)
	}
	img := &source.Image{Name: "registry.example/base:1", Config: config, Layers: []digest.Digest{chain.Layer}, Manifest: digest.Of(nil)}
	if err := w.Images.Put(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	w.Disk.Close()
	if r := w.evict(everything()); r.Freed < 100_000 {
		t.Errorf("freed %d bytes", r.Freed)
	}
	again := w.again()
	if loaded, err := again.Images.Load(t.Context(), img); err != nil || loaded == nil {
		t.Errorf("it cannot be had again: %v, %v", loaded, err)
	}
	if forms, err := again.Layers.Forms(chain.Layer); err != nil || len(forms.Blobs)+len(forms.Trees) > 0 {
		t.Errorf("its bytes are left: %v, %v", forms, err)
	}
}

func TestEvictionIsRemembered(t *testing.T) {
	w := newWorld(t, t.TempDir())
	a := w.step(digest.Digest{}, "a", 1000, 0)
	w.Disk.Close()
	w.evict(everything())
	if e, ok := w.Disk.Evicted(keyOf(a)); !ok || e.Why != "by a test" || time.Since(e.At) > time.Hour {
		t.Errorf("%v, %v", e, ok)
	}
	w.Now = func() time.Time { return time.Now().Add(memory + time.Hour) }
	w.step(digest.Digest{}, "b", 1000, 0)
	w.Disk.Close()
	w.evict(everything())
	if _, ok := w.Disk.Evicted(keyOf(a)); ok {
		t.Error("it is remembered for ever")
	}
}

// The limit is kept, the cheapest bytes go first, and what is enough is enough.
func TestEnforce(t *testing.T) {
	w := newWorld(t, t.TempDir())
	dear := w.step(digest.Digest{}, "dear", 1<<20, time.Hour)
	cheap := w.step(digest.Digest{}, "cheap", 1<<20, time.Millisecond)
	small := w.step(digest.Digest{}, "small", 1<<10, time.Millisecond)
	w.Disk.Close()
	total := w.list().Total
	if r, err := w.Enforce(t.Context(), total); err != nil || len(r.Evicted) > 0 {
		t.Errorf("within the limit: %v, %v", r, err)
	}
	limit := total - 1
	r, err := w.Enforce(t.Context(), limit)
	if err != nil || r.Total > limit {
		t.Fatalf("%v, %v, limit %d", r, err, limit)
	}
	if !w.usable(dear) || w.usable(cheap) || !w.usable(small) {
		t.Errorf("dear %v, cheap %v, small %v", w.usable(dear), w.usable(cheap), w.usable(small))
	}
}

// What is not on the disk cannot be made free: a tar counts without its holes.
func TestHolesFreeNothing(t *testing.T) {
	w := newWorld(t, t.TempDir())
	holes := w.stepWith(digest.Digest{}, "holes", strings.Repeat("\x00", 16<<20), time.Millisecond)
	w.step(digest.Digest{}, "full", 1<<20, time.Millisecond)
	w.Disk.Close()
	inv := w.list()
	for _, r := range inv.Records {
		if r.ID == holes && r.Size > 1<<20 {
			t.Errorf("a layer of holes takes %d bytes", r.Size)
		}
	}
	if n := inv.Reclaimable(); n > inv.Total {
		t.Errorf("%d bytes of %d can be made free", n, inv.Total)
	}
	limit := inv.Total - 1<<19
	if r, err := w.Enforce(t.Context(), limit); err != nil || r.Total > limit {
		t.Errorf("%+v, %v, limit %d", r, err, limit)
	}
}

// The meter must see what other processes do, and agree with a walk over everything.
func TestMeterAgreesWithAWalk(t *testing.T) {
	w := newWorld(t, t.TempDir())
	check := func(when string) {
		t.Helper()
		got := w.list().Total
		var want int64
		entries, err := os.ReadDir(w.Disk.Root())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() == "tmp" || e.Name() == "locks" || e.Name() == deepFile { // written afterwards
				continue
			}
			n, err := cache.DiskUsage(w.Disk.Path(e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			want += n
		}
		if diff := want - got; diff < -16<<10 || diff > 16<<10 { // the folder itself, and what was written since
			t.Errorf("%s: measured %d, a walk says %d", when, got, want)
		}
	}
	check("empty")
	var ids []digest.Digest
	for i := range 5 {
		other := w.again()
		ids = append(ids, other.step(digest.Digest{}, fmt.Sprint("abcde"[i:i+1], i), 200_000, 0))
		check("a step")
	}
	if _, err := w.again().Layers.Trees(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	check("a tree")
	if err := os.MkdirAll(w.Disk.Path("mounts/x/0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Disk.Path("mounts/x/0/f"), make([]byte, 300_000), 0o644); err != nil {
		t.Fatal(err)
	}
	check("a cache mount")
	w.again().evict(everything())
	check("an eviction")
}

func TestGarbageGoesUnlessItIsInTheMaking(t *testing.T) {
	w := newWorld(t, t.TempDir())
	writer := w.again()
	making, err := writer.Disk.WriteBlob([]byte("a config that will be named"))
	if err != nil {
		t.Fatal(err)
	}
	left := w.again()
	lost, err := left.Disk.WriteBlob([]byte("a config that nobody names"))
	if err != nil {
		t.Fatal(err)
	}
	left.Disk.Close()
	w.evict(everything())
	if _, ok := w.Disk.BlobSize(making); !ok {
		t.Error("a blob was removed before it could be named")
	}
	if _, ok := w.Disk.BlobSize(lost); ok {
		t.Error("a blob that nobody names is left")
	}
}

func TestCacheMounts(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for _, name := range []string{"mounts/used/0", "mounts/free/0"} {
		if err := os.MkdirAll(w.Disk.Path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := w.Disk.LockShared(t.Context(), "mounts/used/0")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	w.evict(everything())
	got, err := os.ReadDir(w.Disk.Path("mounts"))
	left := slices.DeleteFunc(got, func(e os.DirEntry) bool {
		list, _ := os.ReadDir(w.Disk.Path("mounts", e.Name()))
		return len(list) == 0
	})
	if err != nil || len(left) != 1 || left[0].Name() != "used" {
		t.Errorf("left are %v, %v", left, err)
	}
}

// What a build has found or made stays until it ends, whatever others evict meanwhile.
func TestBuildsBesideEvictions(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.Disk.Close()
	done := make(chan struct{})
	var builders, evictors sync.WaitGroup
	for i := range 4 {
		builders.Go(func() {
			for n := range 40 {
				if err := buildBeside(w.Disk.Root(), fmt.Sprintf("f%d", (i+n)%3)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		evictors.Go(func() {
			c := w.again()
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := c.Evict(t.Context(), everything()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	builders.Wait()
	close(done)
	evictors.Wait()
}

// buildBeside does what a build of two steps does, in a process of its own: it takes from the store what is there, makes the rest, and
// reads all of it.
func buildBeside(root, name string) error {
	disk, err := cache.Open(root)
	if err != nil {
		return err
	}
	defer disk.Close()
	layers := snapshot.New(disk, nil)
	ctx := context.Background()
	var id digest.Digest
	for _, name := range []string{"base", name} {
		key := cache.Key(digest.Of([]byte(name)))
		found, ok, err := disk.Lookup(ctx, key)
		if err == nil && ok {
			ok, err = layers.Usable(found)
		}
		if err == nil && !ok {
			if found, err = commitFile(layers, id, name); err == nil {
				err = disk.Record(ctx, key, found)
			}
		}
		if err != nil {
			return fmt.Errorf("step %s: %w", name, err)
		}
		id = found
		view, err := layers.View(ctx, id)
		if err != nil {
			return fmt.Errorf("view of %s: %w", name, err)
		}
		e, ok, err := view.Lstat(name)
		if err != nil || !ok {
			return fmt.Errorf("%s: %v, %w", name, ok, err)
		}
		r, err := view.Open(e)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		b, err := io.ReadAll(r)
		if r.Close(); err != nil || string(b) != name {
			return fmt.Errorf("%s holds %q, %w", name, b, err)
		}
	}
	return nil
}

func commitFile(layers *snapshot.Store, parent digest.Digest, name string) (digest.Digest, error) {
	view, err := layers.View(context.Background(), parent)
	if err != nil {
		return parent, err
	}
	c := snapshot.NewChanges(view)
	e := snapshot.Entry{Path: name, Type: snapshot.Regular, Mode: 0o644, Size: int64(len(name))}
	if err := c.Put(e, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(name)), nil }); err != nil {
		return parent, err
	}
	return layers.Commit(context.Background(), parent, c, snapshot.Making{Created: someDay})
}
