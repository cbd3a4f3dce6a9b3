package exporter

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What annotations are put on, as --annotation and the keys of -o name it.
const (
	OnManifest           = "manifest"
	OnManifestDescriptor = "manifest-descriptor"
	OnIndex              = "index"
	OnIndexDescriptor    = "index-descriptor"
)

// An Annotation is a text that goes with an image and is no part of its config.
type Annotation struct {
	On       string            // OnManifest and its like
	Platform *ocispec.Platform // nil: all; an index has none
	Key      string
	Value    string
}

const annotationKey = "annotation"

// isAnnotation reports whether a key of -o is for an annotation: annotation[-ON][[PLATFORM]].KEY.
func isAnnotation(k string) bool {
	rest, ok := strings.CutPrefix(k, annotationKey)
	return ok && rest != "" && strings.ContainsRune("-[.", rune(rest[0]))
}

var annotationTarget = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([a-z-]*)(?:\[([^\]]*)\])?$`) })

func (o *Output) annotate(k, v string) error {
	target, key := strings.TrimPrefix(k, annotationKey), ""
	if i := strings.Index(target, "]."); strings.Contains(target, "[") && i >= 0 { // versions have dots
		target, key = target[:i+1], target[i+2:]
	} else {
		target, key, _ = strings.Cut(target, ".")
	}
	a, err := newAnnotation(strings.TrimPrefix(target, "-"), key, v)
	if err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	o.Form.Annotations = append(o.Form.Annotations, a)
	return nil
}

// ParseAnnotations reads a value of --annotation: [ON[[PLATFORM]],...:]KEY=VALUE.
func ParseAnnotations(s string) ([]Annotation, error) {
	left, value, ok := strings.Cut(s, "=")
	if !ok {
		return nil, fmt.Errorf("it has no =")
	}
	targets, key, ok := strings.Cut(left, ":")
	if !ok {
		targets, key = "", left
	}
	var out []Annotation
	for target := range strings.SplitSeq(targets, ",") {
		a, err := newAnnotation(target, key, value)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func newAnnotation(target, key, value string) (Annotation, error) {
	a := Annotation{On: OnManifest, Key: key, Value: value}
	m := annotationTarget().FindStringSubmatch(target)
	on := []string{OnIndex, OnIndexDescriptor, OnManifest, OnManifestDescriptor}
	switch {
	case key == "":
		return a, fmt.Errorf("an annotation needs a key")
	case m == nil:
		return a, fmt.Errorf("%q is not TYPE or TYPE[PLATFORM]", target)
	case m[1] != "" && !slices.Contains(on, m[1]):
		return a, fmt.Errorf("unknown annotation type %q: one of %s%s", m[1], strings.Join(on, ", "), didYouMean(m[1], on))
	case m[1] != "":
		a.On = m[1]
	}
	if !strings.Contains(target, "[") {
		return a, nil
	}
	p, err := platforms.Parse(m[2])
	if err != nil {
		return a, fmt.Errorf("annotation for platform %q: %w", m[2], err)
	}
	p = platforms.Normalize(p)
	a.Platform = &p
	return a, nil
}

// CheckAnnotations returns an error if some annotation has nothing to be put on in a build for several platforms, or
// for one.
func (f *Form) CheckAnnotations(several bool) error {
	for _, a := range f.Annotations {
		if !several && (a.On == OnIndex || a.On == OnIndexDescriptor) {
			return fmt.Errorf("annotation %s: index annotations not supported for single platform export", a.Key)
		}
	}
	return nil
}

// annotations returns what is to be put on something of platform p, nil when it is nothing.
func (f *Form) annotations(on string, p *ocispec.Platform) map[string]string {
	var out map[string]string
	for _, a := range f.Annotations {
		match := a.Platform == nil || p != nil && platforms.FormatAll(*a.Platform) == platforms.FormatAll(platforms.Normalize(*p))
		if a.On != on || !match {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[a.Key] = a.Value
	}
	return out
}

// merge returns both maps as one, which is nil without any entry; those of b win.
func merge(a, b map[string]string) map[string]string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}
