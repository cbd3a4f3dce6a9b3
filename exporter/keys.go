package exporter

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/seed0570efb0/build/snapshot"
)

// A setter puts the value of a key into an output.
type setter func(o *Output, value string) error

// keys are what each type takes, by BuildKit's names.
var keys = map[string]map[string]setter{
	TypeLocal:     with(placeKeys, map[string]setter{"mode": only("copy")}),
	TypeTar:       placeKeys,
	TypeOCI:       with(formKeys, map[string]setter{"dest": setDest, "name": setNames, "tar": setNot(func(o *Output) *bool { return &o.Folder })}),
	TypeDocker:    with(formKeys, map[string]setter{"dest": setDest, "name": setNames, "tar": setNot(func(o *Output) *bool { return &o.Folder })}),
	TypeImage:     with(formKeys, pushKeys, map[string]setter{"push": set(func(o *Output) *bool { return &o.Push }), "store": setNot(func(o *Output) *bool { return &o.NoStore })}),
	TypeRegistry:  with(formKeys, pushKeys, map[string]setter{"push": only("true")}),
	TypeCacheOnly: {},
}

var placeKeys = map[string]setter{
	"dest": setDest,
	"platform-split": func(o *Output, v string) error {
		o.Split = new(bool)
		return parseBool(o.Split, v)
	},
	"attestation-prefix": nil,
}

// formKeys are for outputs with a manifest.
var formKeys = map[string]setter{
	"compression":           setCompression,
	"compression-level":     setLevel,
	"force-compression":     set(func(o *Output) *bool { return &o.Form.Compression.Force }),
	"oci-mediatypes":        setNot(func(o *Output) *bool { return &o.Form.Docker }),
	"rewrite-timestamp":     set(func(o *Output) *bool { return &o.Form.Clamp }),
	"prefer-nondist-layers": only("false"), "buildinfo": only("false"), "nydus-prefetch": nil,
	"attestation-inline": nil, "compatibility-version": nil, "oci-artifact": nil, "source-date-epoch": nil,
}

var pushKeys = map[string]setter{
	"name":                    setNames,
	"push-by-digest":          set(func(o *Output) *bool { return &o.ByDigest }),
	"name-canonical":          set(func(o *Output) *bool { return &o.Canonical }),
	"registry.insecure":       set(func(o *Output) *bool { return &o.Insecure }),
	"unpack":                  only("false"),
	"danging-name-empty-only": nil, "dangling-name-prefix": nil,
}

func with(sets ...map[string]setter) map[string]setter {
	all := map[string]setter{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

var errUnsupported = errors.New("is not supported")

// set gives a key its value. A key that is known and has no setter is refused, lest somebody relies on it.
func (o *Output) set(known map[string]setter, k, v string) error {
	if isAnnotation(k) && known["compression"] != nil {
		return o.annotate(k, v)
	}
	f, ok := known[k]
	if !ok {
		return fmt.Errorf("unknown key %q for type %s%s", k, o.Type, didYouMean(k, sortedKeys(known)))
	}
	err := errUnsupported
	if f != nil {
		err = f(o, v)
	}
	switch {
	case errors.Is(err, errUnsupported):
		return fmt.Errorf("%s=%s is not supported for type %s", k, v, o.Type)
	case err != nil:
		return fmt.Errorf("%s=%s%w", k, v, err)
	}
	return nil
}

func setDest(o *Output, v string) error { o.Dest = v; return nil }

func setNames(o *Output, v string) error {
	if v == "" {
		return nil
	}
	o.Names = strings.Split(v, ",")
	_, err := normalize(o.Names) // a build must not run for a name that nothing can have
	return err
}

func parseBool(field *bool, v string) (err error) {
	if *field, err = strconv.ParseBool(v); err != nil {
		return errors.New(": want true or false")
	}
	return nil
}

func set(field func(o *Output) *bool) setter {
	return func(o *Output, v string) error { return parseBool(field(o), v) }
}

// setNot is for a field that says the opposite of its key.
func setNot(field func(o *Output) *bool) setter {
	return func(o *Output, v string) error {
		err := parseBool(field(o), v)
		*field(o) = err == nil && !*field(o)
		return err
	}
}

// only is for a key of which one value is what happens anyway.
func only(value string) setter {
	return func(_ *Output, v string) error {
		want, err := strconv.ParseBool(value)
		got, err1 := strconv.ParseBool(v)
		if v == value || err == nil && err1 == nil && want == got {
			return nil
		}
		return errUnsupported
	}
}

// compressions are the values of compression, and the highest level of each.
var compressions = map[string]struct {
	mediaType string
	level     int
}{
	"gzip": {snapshot.MediaTypeTarGzip, 9}, "uncompressed": {snapshot.MediaTypeTar, 0}, "zstd": {snapshot.MediaTypeTarZstd, 22},
}

func setCompression(o *Output, v string) error {
	c, ok := compressions[v]
	if !ok {
		return fmt.Errorf(" is not supported: one of %s%s", strings.Join(sortedKeys(compressions), ", "), didYouMean(v, sortedKeys(compressions)))
	}
	o.Form.Compression.MediaType = c.mediaType
	return nil
}

func setLevel(o *Output, v string) (err error) {
	if o.Form.Compression.Level, err = strconv.Atoi(v); err != nil || o.Form.Compression.Level < 1 {
		return errors.New(": want a number from 1 on")
	}
	return nil
}

// check looks at what keys mean together.
func (f *Form) check() error {
	for name, c := range compressions {
		if level := f.Compression.Level; c.mediaType == f.compression().MediaType && level > c.level {
			if c.level == 0 {
				return fmt.Errorf("compression-level=%d: compression=%s has no levels", level, name)
			}
			return fmt.Errorf("compression-level=%d: compression=%s has levels 1 to %d", level, name, c.level)
		}
	}
	return nil
}
