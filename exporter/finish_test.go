package exporter

import (
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// History entries are written as letters: L a layer, e an empty entry; lower case n after them says
// that the entry is new, a digit is its time.
func history(text string) (out []ocispec.History) {
	for _, f := range strings.Fields(text) {
		h := ocispec.History{CreatedBy: f, EmptyLayer: f[0] == 'e'}
		if f[1] != 'n' {
			t := second(f[1])
			h.Created = &t
		}
		out = append(out, h)
	}
	return out
}

func second(digit byte) time.Time { return time.Unix(int64(digit-'0'), 0).UTC() }

func layerTimes(text string) (out []time.Time) {
	for _, c := range []byte(text) {
		t := time.Time{}
		if c != '-' {
			t = second(c)
		}
		out = append(out, t)
	}
	return out
}

func render(list []ocispec.History) string {
	var out []string
	for _, h := range list {
		s := "L"
		if h.EmptyLayer {
			s = "e"
		}
		if h.Created == nil {
			s += "-"
		} else {
			s += string(rune('0' + h.Created.Unix()))
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestCompleteHistory(t *testing.T) {
	for _, c := range []struct{ name, history, layers, epoch, want string }{
		{"layers get their own times", "L1 Ln Ln", "-35", "", "L1 L3 L5"},
		{"empty entries get the time of the layer before", "L1 Ln en Ln en", "-35", "", "L1 L3 e3 L5 e5"},
		{"or of the first one", "L1 e2 en en Ln", "-3", "", "L1 e2 e3 e3 L3"},
		{"or of the base", "L1 e2 en", "-", "", "L1 e2 e2"},
		{"scratch", "en en", "", "", "e- e-"},
		{"scratch with an epoch", "en en", "", "4", "e4 e4"},
		{"the epoch is the time of all but the base", "L9 Ln en Ln", "-36", "4", "L9 L4 e4 L4"},
		{"a layer that another image brought has no time", "L1 Ln Ln", "--5", "", "L1 L5 L5"},
		{"base without history", "Ln en", "--3", "", "L3 L3 L3 e3"},
		{"base with a short history", "L1 Ln", "---3", "", "L1 L3 L3 L3"},
		{"base with too much history", "L1 L1 Ln", "-", "", "L1 e1 e1"},
	} {
		var epoch *time.Time
		if c.epoch != "" {
			e := second(c.epoch[0])
			epoch = &e
		}
		in := history(c.history)
		if got := render(completeHistory(in, layerTimes(c.layers), epoch)); got != c.want {
			t.Errorf("%s: %q with layers %q: %q, want %q", c.name, c.history, c.layers, got, c.want)
		}
		if render(in) != render(history(c.history)) {
			t.Errorf("%s: the history that was handed over has changed", c.name)
		}
	}
}
