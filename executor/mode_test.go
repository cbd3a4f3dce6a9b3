package executor

import (
	"io/fs"
	"testing"

	dmode "github.com/tonistiigi/dchapes-mode"
)

func TestModes(t *testing.T) {
	tests := []struct {
		text      string
		mode      uint32
		dir       bool
		want      uint32
		wantError bool
	}{
		{text: "", mode: 0o4755, want: 0o4755},
		{text: "640", mode: 0o4755, want: 0o640},
		{text: "0", mode: 0o777, want: 0},
		{text: "7777", want: 0o7777},
		{text: "u+s", mode: 0o755, want: 0o4755},
		{text: "g+s,+t", mode: 0o755, dir: true, want: 0o3755},
		{text: "go=", mode: 0o4755, want: 0o4700},
		{text: "+X", mode: 0o644, want: 0o644},
		{text: "+X", mode: 0o644, dir: true, want: 0o755},
		{text: "+X", mode: 0o744, want: 0o755},
		{text: "u=rwX,go=rX", mode: 0o600, want: 0o644},
		{text: "o=u-w", mode: 0o640, want: 0o644},
		{text: "a-x+w", mode: 0o755, want: 0o666},
		{text: "u+q", wantError: true},
		{text: "10000", wantError: true},
		{text: "9", wantError: true},
	}
	for _, tt := range tests {
		m, err := parseMode(tt.text)
		if (err != nil) != tt.wantError {
			t.Errorf("%q: error %v", tt.text, err)
			continue
		}
		if got := m.of(tt.mode, tt.dir); err == nil && got != tt.want {
			t.Errorf("%q of %04o: got %04o, want %04o", tt.text, tt.mode, got, tt.want)
		}
	}
}

// FuzzModes holds the bits against those of the library, which keeps them as package fs does.
func FuzzModes(f *testing.F) {
	for _, text := range []string{"640", "u+s", "u=rwX,go=rX", "g=u-w,+t", "a", "=", "7777", "-"} {
		f.Add(text, uint32(0o644), true)
	}
	f.Fuzz(func(t *testing.T, text string, mode uint32, dir bool) {
		m, err := parseMode(text)
		if err != nil {
			return
		}
		mode &= 0o7777
		got := m.of(mode, dir)
		if got > 0o7777 {
			t.Errorf("%q of %04o: %o", text, mode, got)
		}
		if m.changes == nil {
			return
		}
		set, _ := dmode.Parse(text)
		if again := set.Apply(fileMode(mode, dir)); bitsOf(again) != got || again&fs.ModeDir != 0 != dir {
			t.Errorf("%q of %04o: %o and %v", text, mode, got, again)
		}
	})
}
