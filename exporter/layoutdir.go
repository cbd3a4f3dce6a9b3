package exporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeLayout writes a layout into the folder dest. Images that are there stay, but for the names that the new one takes; the index,
// which makes the new one part of the layout, is written last. Two builds that write at the same time are for the caller to keep apart.
func (x *Exporter) writeLayout(ctx context.Context, dest string, files []member, index ocispec.Index, written func(member)) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	old, err := readIndex(filepath.Join(dest, ocispec.ImageIndexFile))
	if err != nil {
		return err
	}
	for _, f := range files {
		at := filepath.Join(dest, f.name)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		switch {
		case f.isDir():
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
			continue
		case f.name == ocispec.ImageIndexFile:
			continue
		case filepath.Dir(f.name) == filepath.Clean(blobsDir) && sizeOf(at) == f.size:
			// A blob of that name and size was written by somebody who compared the digest, as we do.
		default:
			if err := x.create(ctx, at, func(w io.Writer) error { return f.copyTo(w) }); err != nil {
				return err
			}
		}
		written(f)
	}
	index.Manifests = joinEntries(old.Manifests, index.Manifests)
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return WriteFile(ctx, filepath.Join(dest, ocispec.ImageIndexFile), b)
}

func sizeOf(file string) int64 {
	fi, err := os.Lstat(file)
	if err != nil || !fi.Mode().IsRegular() {
		return -1
	}
	return fi.Size()
}

// readIndex reads the index of the layout that is there already; without one it is empty.
func readIndex(file string) (index ocispec.Index, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &index)
	}
	if err != nil {
		return index, fmt.Errorf("the layout that is there: %w", err)
	}
	return index, nil
}

// joinEntries adds entries to those of an index. A tag is taken from what had it, and a digest without one is there once.
func joinEntries(old, more []ocispec.Descriptor) []ocispec.Descriptor {
	tag := func(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }
	kept := slices.DeleteFunc(slices.Clone(old), func(o ocispec.Descriptor) bool {
		return slices.ContainsFunc(more, func(m ocispec.Descriptor) bool {
			return tag(o) == tag(m) && (tag(o) != "" || o.Digest == m.Digest)
		})
	})
	return append(kept, more...)
}
