package exporter

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
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
	Push  bool     // TypeImage: to the registry as well
	// Compression is the media type of layers that do not come with a base image; "" is gzip.
	Compression string
}

// String returns what people call the output.
func (o Output) String() string {
	switch {
	case o.Dest == "-":
		return "standard output"
	case o.Dest != "":
		return o.Dest
	case o.Type == TypeImage:
		return "the store"
	}
	return o.Type
}

// keys are the attributes that each type takes. Of those that have a value here only that value is
// supported, and it is what happens anyway.
var keys = map[string]map[string]string{
	TypeLocal:     {"dest": ""},
	TypeTar:       {"dest": ""},
	TypeOCI:       {"dest": "", "name": "", "compression": "", "oci-mediatypes": "true", "tar": "true"},
	TypeDocker:    {"dest": "", "name": "", "compression": "", "oci-mediatypes": "true", "tar": "true"},
	TypeImage:     {"name": "", "push": "", "compression": "", "oci-mediatypes": "true", "store": "true"},
	TypeRegistry:  {"name": "", "push": "true", "compression": "", "oci-mediatypes": "true"},
	TypeCacheOnly: {},
}

// unsupported are attributes of BuildKit that are known and refused, lest somebody relies on them. Those that have
// a value may have that one.
var unsupported = map[string]string{
	"annotation": "", "attestation-inline": "", "attestation-prefix": "", "buildinfo": "false", "compatibility-version": "",
	"compression-level": "", "context": "", "danging-name-empty-only": "", "dangling-name-prefix": "",
	"force-compression": "false", "mode": "copy", "name-canonical": "false", "nydus-prefetch": "", "oci-artifact": "",
	"oci-mediatypes": "", "platform-split": "false", "prefer-nondist-layers": "false", "push-by-digest": "false",
	"registry.insecure": "false", "rewrite-timestamp": "false", "source-date-epoch": "", "store": "", "tar": "", "unpack": "false",
}

var compressions = map[string]string{
	"gzip": snapshot.MediaTypeTarGzip, "uncompressed": snapshot.MediaTypeTar, "zstd": snapshot.MediaTypeTarZstd,
}

// ParseOutput reads a value of -o: a folder, "-" for a tar on standard output, or "type=T,key=value,...",
// which is CSV: a field with a comma in it is put into double quotes.
func ParseOutput(s string) (Output, error) {
	fail := func(format string, args ...any) (Output, error) {
		return Output{}, fmt.Errorf("output %q: %w", s, fmt.Errorf(format, args...))
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
		k = strings.ToLower(strings.TrimSpace(k))
		if !ok {
			return fail("%q is not key=value", f)
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
	if strings.TrimSpace(dest) == "" {
		return Output{}, fmt.Errorf("output %q: no folder is named", dest)
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
		if err := checkKey(o.Type, known, k, attrs[k]); err != nil {
			return o, err
		}
	}
	return o, o.fill(attrs)
}

func checkKey(typ string, known map[string]string, k, v string) error {
	only, ok := known[k]
	if ok && only == "" {
		return nil
	}
	if !ok {
		name := k
		if strings.HasPrefix(k, "annotation") {
			name = "annotation" // annotation[platform].key
		}
		if only, ok = unsupported[name]; !ok {
			return fmt.Errorf("unknown key %q for type %s%s", k, typ, didYouMean(k, sortedKeys(known)))
		}
	}
	want, err := strconv.ParseBool(only)
	got, err1 := strconv.ParseBool(v)
	if only != "" && (v == only || err == nil && err1 == nil && want == got) {
		return nil
	}
	return fmt.Errorf("%s=%s is not supported for type %s", k, v, typ)
}

func (o *Output) fill(attrs map[string]string) error {
	o.Dest = attrs["dest"]
	if n := attrs["name"]; n != "" {
		o.Names = strings.Split(n, ",")
	}
	if v, ok := attrs["push"]; ok {
		push, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("push=%s: want true or false", v)
		}
		o.Push = push
	}
	if _, ok := keys[o.Type]["compression"]; ok {
		c, given := attrs["compression"]
		if !given {
			c = "gzip"
		}
		if o.Compression = compressions[c]; o.Compression == "" {
			return fmt.Errorf("compression=%s is not supported: one of %s%s", c, strings.Join(sortedKeys(compressions), ", "), didYouMean(c, sortedKeys(compressions)))
		}
	}
	return o.checkDest()
}

// checkDest says early what would fail after the build.
func (o *Output) checkDest() error {
	switch o.Type {
	case TypeLocal:
		if o.Dest == "" || o.Dest == "-" {
			return fmt.Errorf("type local needs dest=FOLDER")
		}
		if fi, err := os.Stat(o.Dest); err == nil && !fi.IsDir() {
			return fmt.Errorf("dest %s is not a folder", o.Dest)
		}
	case TypeTar, TypeOCI, TypeDocker:
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
