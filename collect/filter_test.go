package collect

import (
	"testing"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

func TestFilter(t *testing.T) {
	parent := digest.Of([]byte("parent"))
	r := &Record{ID: digest.Of([]byte("r")), Type: Layer, Description: "[2/3] RUN make", Parents: []digest.Digest{parent}, Shared: true,
		LastUsed: someDay.Add(-25 * time.Hour)}
	for text, want := range map[string]bool{
		"type=regular": true, "type==regular": true, "type!=regular": false, "type=exec.cachemount": false, "type~=reg": true,
		"id=" + r.ID.Short(): true, "id=" + r.ID.String(): true, "id~=" + r.ID.Short(): true, "id=0000": false, "id!=0000": true,
		"parents=" + parent.Short(): true, "parents=0000": false,
		"description~=make": true, "description~=test": false, "description=make": false, "description=[2/3] RUN make": true,
		"inuse": false, "inuse=false": true, "inuse!=true": true, "shared": true, "shared=1": true, "private": false, "mutable": false, "immutable": true,
		"until=24h": true, "until=26h": false, "until=1d": true, "until=2d": false, "until=2020-01-01T00:00:00Z": false,
	} {
		f, err := ParseFilter(text, someDay)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := f(r); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, text := range []string{"", "size=1", "type", "type=", "until", "until=soon", "until=-1h", "until~=1h", "inuse=maybe", "shared~=true", "inuse="} {
		if _, err := ParseFilter(text, someDay); err == nil {
			t.Errorf("%q is taken for a filter", text)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	f.Add("until=24h")
	f.Add("description~=x")
	f.Fuzz(func(t *testing.T, text string) {
		if match, err := ParseFilter(text, someDay); err == nil {
			match(&Record{})
		}
	})
}
