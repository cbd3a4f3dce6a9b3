package exporter

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/snapshot"
)

func TestParseOutput(t *testing.T) {
	gz := snapshot.MediaTypeTarGzip
	for in, want := range map[string]Output{
		"out":                          {Type: TypeLocal, Dest: "out"},
		"out,put":                      {}, // CSV of two fields: not key=value
		"-":                            {Type: TypeTar, Dest: "-"},
		"type=local,dest=x":            {Type: TypeLocal, Dest: "x"},
		"type=tar":                     {Type: TypeTar, Dest: "-"},
		"type=tar,dest=-":              {Type: TypeTar, Dest: "-"},
		"type=oci,dest=x.tar":          {Type: TypeOCI, Dest: "x.tar", Compression: gz},
		`type=oci,"dest=a,b"`:          {Type: TypeOCI, Dest: "a,b", Compression: gz},
		"dest=x,TYPE=docker":           {Type: TypeDocker, Dest: "x", Compression: gz},
		"type=oci,compression=zstd":    {Type: TypeOCI, Dest: "-", Compression: snapshot.MediaTypeTarZstd},
		`type=image,"name=a,b",push=1`: {Type: TypeImage, Names: []string{"a", "b"}, Push: true, Compression: gz},
		"type=registry":                {Type: TypeRegistry, Compression: gz},
		"type=registry,name=r.io/a:1,oci-mediatypes=true,push-by-digest=false": {Type: TypeRegistry, Names: []string{"r.io/a:1"}, Compression: gz},
		"type=docker,dest=x,compression=uncompressed,rewrite-timestamp=0":      {Type: TypeDocker, Dest: "x", Compression: snapshot.MediaTypeTar},
		"type=cacheonly": {Type: TypeCacheOnly},
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
		"":                               "EOF",
		" ":                              "no folder is named",
		"type=":                          "type is required",
		"dest=x,name=y":                  "type is required",
		"type=oic,dest=x":                `unknown type "oic" (did you mean "oci"?)`,
		"type=oci,des=x":                 `unknown key "des" for type oci (did you mean "dest"?)`,
		"type=oci,dest":                  `"dest" is not key=value`,
		"type=oci,dest=a,dest=b":         "dest is given twice",
		"type=oci,compression=gzp":       `did you mean "gzip"?`,
		"type=oci,compression=estargz":   "compression=estargz is not supported",
		"type=oci,compression-level=9":   "compression-level=9 is not supported for type oci",
		"type=oci,tar=false":             "tar=false is not supported",
		"type=oci,oci-mediatypes=false":  "oci-mediatypes=false is not supported",
		"type=oci,annotation-index.a=b":  "annotation-index.a=b is not supported",
		"type=image,rewrite-timestamp=1": "rewrite-timestamp=1 is not supported",
		"type=image,push=maybe":          "want true or false",
		"type=registry,push=false":       "push=false is not supported",
		"type=local":                     "needs dest=FOLDER",
		"type=local,dest=-":              "needs dest=FOLDER",
		"type=local,dest=" + file:        "not a folder",
		"type=tar,dest=" + dir:           "is a folder",
		"type=tar,compression=gzip":      `unknown key "compression" for type tar`,
		"type=oci,dest=a\ntype=oci":      "more than one line",
		`type=oci,"dest=a`:               "quote",
	} {
		got, err := ParseOutput(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseOutput(%q) = %+v, %v; want %q", in, got, err, want)
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
		if _, packs := keys[o.Type]["compression"]; packs != (o.Compression != "") {
			t.Errorf("ParseOutput(%q) = %+v", s, o)
		}
	})
}
