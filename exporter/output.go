package exporter

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/util/suggest"

	"github.com/seed0570efb0/build/snapshot"
)

// Types of outputs, as -o names them.
const (
	TypeLocal     = "local"
	TypeTar       = "tar"
	TypeOCI       = "oci"
	TypeDocker    = "docker"
	TypeImage     = "image" // the store
	TypeRegistry  = "registry"
	TypeCacheOnly = "cacheonly"
)

// An Output is a place that an image is to be written to.
type Output struct {
	Type  string
	Dest  string   // a path, or "-" for standard output
	Names []string // nil: those of the build
	// Form is what becomes of the image in archives and registries.
	Form Form
	// Folder makes an OCI layout of TypeOCI and TypeDocker a folder; what else is in it stays.
	Folder bool
	// Split gives each platform a folder of its own in TypeLocal and TypeTar; nil does when there are several.
	Split *bool

	// NoStore leaves the store out of TypeImage.
	NoStore bool
	// Push is for TypeImage: to the registry as well. TypeRegistry always does.
	Push bool
	// ByDigest pushes without a tag.
	ByDigest bool
	// Canonical also keeps the image in the store under NAME@DIGEST.
	Canonical bool
	// Insecure pushes to registries that have no TLS, or a certificate that nobody knows.
	Insecure bool
}

// A Form is what the manifests and layers look like that archives and registries carry. The zero Form is OCI's with layers
// in gzip.
type Form struct {
	Compression snapshot.Compression
	// Docker makes the media types those of Docker's schema 2.
	Docker bool
	// Clamp makes no file in the layers of the build later than SOURCE_DATE_EPOCH.
	Clamp       bool
	Annotations []Annotation
}

// String returns what people call the output.
func (o Output) String() string {
	switch {
	case o.Dest == "-":
		return "standard output"
	case o.Dest != "":
		return o.Dest
	case o.Type == TypeImage && !o.NoStore:
		return "the store"
	case o.Type == TypeImage:
		return TypeRegistry
	}
	return o.Type
}

// Pushes reports whether a registry is asked to take the image.
func (o Output) Pushes() bool { return o.Push || o.Type == TypeRegistry }

// Check returns an error if some key of o can have no effect. It is for when it is known whether o pushes.
func (o Output) Check() error {
	if o.Pushes() || o.Type != TypeImage {
		return nil
	}
	f := o.Form
	for _, k := range []struct {
		key string
		set bool
	}{{"name-canonical", o.Canonical}, {"push-by-digest", o.ByDigest}, {"registry.insecure", o.Insecure}, {"store=false", o.NoStore}} {
		if k.set {
			return fmt.Errorf("type=image: %s needs push=true", k.key)
		}
	}
	if f.Docker || len(f.Annotations) > 0 || f.compression() != (snapshot.Compression{MediaType: snapshot.MediaTypeTarGzip}) {
		return errors.New("type=image: the store keeps neither compression, media types nor annotations: they need push=true")
	}
	return nil
}

// Packs reports whether the output has a manifest, which has a form and annotations.
func (o Output) Packs() bool { return o.Type == TypeOCI || o.Type == TypeDocker || o.Pushes() }

// Compressions returns the compressions that the layers of a build itself will be asked for in. Those of an output that rewrites times are
// none of them: layers are made anew for it.
func Compressions(outputs []Output) []snapshot.Compression {
	var list []snapshot.Compression
	for _, o := range outputs {
		if c := o.Form.compression(); o.Packs() && !o.Form.Clamp && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// ParseOutput reads a value of -o: a folder, "-" for a tar on standard output, or "type=T,key=value,...",
// which is CSV: a field with a comma in it is put into double quotes.
func ParseOutput(s string) (Output, error) {
	fail := func(format string, args ...any) (Output, error) {
		return Output{}, fmt.Errorf("output %q: %w", s, fmt.Errorf(format, args...))
	}
	if strings.TrimSpace(s) == "" {
		return fail("no folder is named")
	}
	r := csv.NewReader(strings.NewReader(s))
	fields, err := r.Read()
	if err != nil {
		return fail("%w", err)
	}
	if _, err := r.Read(); err != io.EOF {
		return fail("more than one line")
	}
	if len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, "type=") {
		return plainOutput(s)
	}
	attrs := map[string]string{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		k = strings.TrimSpace(k)
		if !ok {
			return fail("%q is not key=value", f)
		}
		if !isAnnotation(k) {
			k = strings.ToLower(k)
		}
		if old, dup := attrs[k]; dup && old != v {
			return fail("%s is given twice", k)
		}
		attrs[k] = v
	}
	o, err := newOutput(attrs)
	if err != nil {
		return fail("%w", err)
	}
	return o, nil
}

func plainOutput(dest string) (Output, error) {
	if dest == "-" {
		return Output{Type: TypeTar, Dest: "-"}, nil
	}
	o := Output{Type: TypeLocal, Dest: dest}
	if err := o.checkDest(); err != nil {
		return Output{}, fmt.Errorf("output %q: %w", dest, err)
	}
	return o, nil
}

func newOutput(attrs map[string]string) (Output, error) {
	o := Output{Type: attrs["type"]}
	delete(attrs, "type")
	if o.Type == "" {
		return o, fmt.Errorf("type is required: one of %s", strings.Join(sortedKeys(keys), ", "))
	}
	known, ok := keys[o.Type]
	if !ok {
		return o, fmt.Errorf("unknown type %q%s", o.Type, didYouMean(o.Type, sortedKeys(keys)))
	}
	for _, k := range sortedKeys(attrs) {
		if err := o.set(known, k, attrs[k]); err != nil {
			return o, err
		}
	}
	if err := o.Form.check(); err != nil {
		return o, err
	}
	return o, o.checkDest()
}

// checkDest says early what would fail after the build.
func (o *Output) checkDest() error {
	switch {
	case o.Type == TypeLocal || o.Folder:
		if o.Dest == "" || o.Dest == "-" {
			return fmt.Errorf("type %s needs dest=FOLDER", o.Type)
		}
		if fi, err := os.Stat(o.Dest); err == nil && !fi.IsDir() {
			return fmt.Errorf("dest %s is not a folder", o.Dest)
		}
	case o.Type == TypeTar, o.Type == TypeOCI, o.Type == TypeDocker:
		if o.Dest == "" {
			o.Dest = "-"
		}
		if o.Dest == "-" {
			return nil
		}
		if err := CheckFile(o.Dest); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func didYouMean(word string, list []string) string {
	if s, ok := suggest.Search(word, list, false); ok {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}
