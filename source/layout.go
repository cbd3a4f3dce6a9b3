package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seed0570efb0/build/internal/digest"
)

// layoutScheme starts a reference to an OCI layout: oci-layout://DIR[:tag|@digest].
const layoutScheme = "oci-layout://"

// A layout is an origin: a folder in the OCI image layout.
type layout struct{ dir string }

func cutLayout(ref string) (string, bool) { return strings.CutPrefix(ref, layoutScheme) }

// parseLayout splits DIR[:tag|@digest]. A folder whose whole name is s wins over a tag.
func parseLayout(s string) (l layout, id string, err error) {
	dir := s
	if fi, err := os.Stat(s); err != nil || !fi.IsDir() {
		if i := strings.LastIndex(s, "@sha256:"); i >= 0 {
			dir, id = s[:i], s[i+1:]
		} else if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
			dir, id = s[:i], s[i+1:]
		}
	}
	if dir == "" {
		return l, "", errors.New("no folder is named")
	}
	dir, err = filepath.Abs(dir)
	return layout{dir}, id, err
}

func (l layout) String() string { return layoutScheme + l.dir }

// manifest implements origin. With no id it is the entry tagged "latest", or else the only one.
func (l layout) manifest(ctx context.Context, id string) (manifest, error) {
	if d, err := digest.Parse(id); err == nil {
		return l.manifestBlob(ctx, ocispec.Descriptor{}, d)
	}
	raw, err := readLimited(filepath.Join(l.dir, ocispec.ImageIndexFile), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return manifest{}, fmt.Errorf("not an OCI layout: %w", err)
	}
	if err != nil {
		return manifest{}, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return manifest{}, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	entry, err := pickEntry(index.Manifests, id)
	if err != nil {
		return manifest{}, err
	}
	d, err := digest.Parse(string(entry.Digest))
	if err != nil {
		return manifest{}, err
	}
	return l.manifestBlob(ctx, entry, d)
}

func pickEntry(entries []ocispec.Descriptor, tag string) (ocispec.Descriptor, error) {
	want := tag
	if want == "" {
		want = "latest"
	}
	var tags []string
	for _, e := range entries {
		t := e.Annotations[ocispec.AnnotationRefName]
		if t == want || e.Annotations[annotationName] == want {
			return e, nil
		}
		if t != "" {
			tags = append(tags, t)
		}
	}
	if tag == "" && len(entries) == 1 {
		return entries[0], nil
	}
	sort.Strings(tags)
	return ocispec.Descriptor{}, fmt.Errorf("the layout has %d images and none is tagged %q; tags: %s", len(entries), want, strings.Join(tags, ", "))
}

// annotationName is where containerd and BuildKit keep the whole name of an image in an index.
const annotationName = "io.containerd.image.name"

func (l layout) manifestBlob(ctx context.Context, desc ocispec.Descriptor, d digest.Digest) (manifest, error) {
	b, err := readLimited(l.blobFile(d), maxManifest)
	if err == nil {
		err = verify(d, b)
	}
	return manifest{b, desc.MediaType}, err
}

func (l layout) blobFile(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", "sha256", d.Hex())
}

func (l layout) blob(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	return os.Open(l.blobFile(d))
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}
