package exporter

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/snapshot"
)

func TestParseOutput(t *testing.T) {
	yes, no := true, false
	form := func(mediaType string) Form { return Form{Compression: snapshot.Compression{MediaType: mediaType}} }
	for in, want := range map[string]Output{
		"out":                          {Type: TypeLocal, Dest: "out"},
		"out,put":                      {}, // CSV of two fields: not key=value
		"-":                            {Type: TypeTar, Dest: "-"},
		"type=local,dest=x":            {Type: TypeLocal, Dest: "x"},
		"type=tar":                     {Type: TypeTar, Dest: "-"},
		"type=tar,dest=-":              {Type: TypeTar, Dest: "-"},
		"type=oci,dest=x.tar":          {Type: TypeOCI, Dest: "x.tar"},
		"type=oci,dest=x,tar=false":    {Type: TypeOCI, Dest: "x", Folder: true},
		"type=docker,dest=x,tar=true":  {Type: TypeDocker, Dest: "x"},
		`type=oci,"dest=a,b"`:          {Type: TypeOCI, Dest: "a,b"},
		"dest=x,TYPE=docker":           {Type: TypeDocker, Dest: "x"},
		"type=oci,compression=zstd":    {Type: TypeOCI, Dest: "-", Form: form(snapshot.MediaTypeTarZstd)},
		`type=image,"name=a,b",push=1`: {Type: TypeImage, Names: []string{"a", "b"}, Push: true},
		"type=image,store=false,push=true,name-canonical=true,push-by-digest=true,registry.insecure=true": {Type: TypeImage, NoStore: true, Push: true, Canonical: true, ByDigest: true, Insecure: true},
		"type=registry": {Type: TypeRegistry},
		"type=registry,name=r.io/a:1,oci-mediatypes=true,push-by-digest=false": {Type: TypeRegistry, Names: []string{"r.io/a:1"}},
		"type=docker,dest=x,compression=uncompressed,rewrite-timestamp=0":      {Type: TypeDocker, Dest: "x", Form: form(snapshot.MediaTypeTar)},
		"type=oci,oci-mediatypes=false,rewrite-timestamp=1,compression-level=9,force-compression=true": {Type: TypeOCI, Dest: "-",
			Form: Form{Docker: true, Clamp: true, Compression: snapshot.Compression{Level: 9, Force: true}}},
		"type=local,dest=x,platform-split=true": {Type: TypeLocal, Dest: "x", Split: &yes},
		"type=tar,platform-split=false":         {Type: TypeTar, Dest: "-", Split: &no},
		"type=cacheonly":                        {Type: TypeCacheOnly},
	} {
		got, err := ParseOutput(in)
		if want.Type == "" {
			if err == nil {
				t.Errorf("ParseOutput(%s) = %+v, want an error", in, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseOutput(%s) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestParseOutputErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                              "no folder is named",
		" ":                             "no folder is named",
		"type=":                         "type is required",
		"dest=x,name=y":                 "type is required",
		"type=oic,dest=x":               `unknown type "oic" (did you mean "oci"?)`,
		"type=oci,des=x":                `unknown key "des" for type oci (did you mean "dest"?)`,
		"type=oci,dest":                 `"dest" is not key=value`,
		"type=oci,dest=a,dest=b":        "dest is given twice",
		"type=oci,compression=gzp":      `did you mean "gzip"?`,
		"type=oci,compression=estargz":  "compression=estargz is not supported",
		"type=oci,compression-level=10": "compression=gzip has levels 1 to 9",
		"type=oci,compression-level=0":  "want a number from 1 on",
		"type=oci,compression=uncompressed,compression-level=1": "compression=uncompressed has no levels",
		"type=oci,tar=false":                                  "needs dest=FOLDER",
		"type=oci,tar=no":                                     "want true or false",
		"type=oci,annotation-indx.a=b":                        `unknown annotation type "indx"`,
		"type=local,dest=x,annotation.a=b":                    `unknown key "annotation.a" for type local`,
		"type=oci,attestation-inline=true":                    "attestation-inline=true is not supported for type oci",
		"type=image,unpack=true":                              "unpack=true is not supported",
		"type=image,push=maybe":                               "want true or false",
		"type=registry,push=false":                            "push=false is not supported",
		"type=local":                                          "needs dest=FOLDER",
		"type=local,dest=-":                                   "needs dest=FOLDER",
		"type=local,dest=" + file:                             "not a folder",
		"type=tar,dest=" + dir:                                "is a folder",
		"type=tar,compression=gzip":                           `unknown key "compression" for type tar`,
		"type=oci,dest=x,name=App":                            "must be lowercase",
		"type=image,name=a@sha256:" + strings.Repeat("1", 64): "cannot be named by a digest",
		"type=oci,dest=a\ntype=oci":                           "more than one line",
		`type=oci,"dest=a`:                                    "quote",
	} {
		got, err := ParseOutput(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseOutput(%q) = %+v, %v; want %q", in, got, err, want)
		}
	}
}

// Layers are compressed beside the build in the forms that outputs have a use for, each once.
func TestCompressions(t *testing.T) {
	var outputs []Output
	for _, text := range []string{
		"out", "type=tar", "type=cacheonly", "type=image", "type=oci", "type=docker", "type=registry", "type=image,push=true,compression=gzip",
		"type=oci,compression=uncompressed,rewrite-timestamp=true", "type=oci,compression=zstd",
	} {
		o, err := ParseOutput(text)
		if err != nil {
			t.Fatal(err)
		}
		outputs = append(outputs, o)
	}
	want := []snapshot.Compression{{MediaType: snapshot.MediaTypeTarGzip}, {MediaType: snapshot.MediaTypeTarZstd}}
	if got := Compressions(outputs); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Compressions(outputs[:4]); got != nil {
		t.Errorf("for the store and for files: %v", got)
	}
}

// What only registries keep is not for the store alone.
func TestCheck(t *testing.T) {
	for in, want := range map[string]string{
		"type=image": "", "type=image,compression=gzip,rewrite-timestamp=true": "", "type=image,push=true,compression=zstd,store=false": "",
		"type=registry,push-by-digest=true": "", "type=oci,annotation.a=b": "",
		"type=image,name-canonical=true": "name-canonical needs push=true", "type=image,push-by-digest=true": "push-by-digest needs push=true",
		"type=image,store=false": "store=false needs push=true", "type=image,registry.insecure=true": "needs push=true",
		"type=image,compression=zstd": "the store keeps neither", "type=image,annotation.a=b": "the store keeps neither",
		"type=image,oci-mediatypes=false": "the store keeps neither", "type=image,force-compression=true": "the store keeps neither",
	} {
		o, err := ParseOutput(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func FuzzParseOutput(f *testing.F) {
	for _, s := range []string{"out", "-", "type=oci,dest=x.tar,compression=gzip", `type=image,"name=a,b",push=true`, `"`, "type=tar\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOutput(s)
		if err != nil {
			return
		}
		if _, ok := keys[o.Type]; !ok {
			t.Errorf("ParseOutput(%q) has the type %q", s, o.Type)
		}
	})
}
