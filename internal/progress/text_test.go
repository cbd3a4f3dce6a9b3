package progress

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "hello, world", "hello, world"},
		{"tab", "a\tb", "a\tb"},
		{"utf8", "größe 大小 🙂", "größe 大小 🙂"},
		{"colour", "\x1b[1;31mred\x1b[0m", "red"},
		{"cursor", "a\x1b[2Ab\x1b[Jc\x1b[?25ld", "abcd"},
		{"window title, ended by BEL", "a\x1b]0;title\ab", "ab"},
		{"link, ended by ST", "\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\", "text"},
		{"device control", "a\x1bPq#0\x1b\\b", "ab"},
		{"never ends", "a\x1b]0;title", "a"},
		{"only escape", "a\x1b", "a"},
		{"charset", "a\x1b(Bb", "ab"},
		{"save cursor", "a\x1b7b\x1b8c", "abc"},
		{"reset", "a\x1bcb", "ab"},
		{"broken off by another", "a\x1b[12\x1b[31mb", "ab"},
		{"broken off by utf8", "a\x1b[1ö", "aö"},
		{"backspace", "50%\b\b\b60%", "60%"},
		{"too many backspaces", "\b\bö\bo", "o"},
		{"bell, null, delete", "a\a\x00\x7fb", "ab"},
		{"c1", "a\u009b31mb", "a31mb"},
		{"reordering", "a\u202eb\u2066c", "abc"},
		{"not utf8", "a\xffb", "a\ufffdb"},
	} {
		if got := clean([]byte(c.in)); got != c.want {
			t.Errorf("%s: clean(%q) = %q, want %q", c.name, c.in, got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := OneLine("RUN <<EOF\r\n\tmake\x1b[2J\nEOF\n"); got != "RUN <<EOF \tmake EOF" {
		t.Errorf("got %q", got)
	}
}

// printed returns the lines that a step prints for writes of the given chunks.
func printed(chunks ...string) []string {
	d := &Display{keep: tailLines, view: quiet{}}
	s := d.step("x", nil)
	for _, c := range chunks {
		s.stdout.Write([]byte(c))
	}
	s.stdout.flush()
	return s.tail.last(tailLines)
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"none", "", nil},
		{"one", "a\n", []string{"a"}},
		{"no newline at the end", "a\nb", []string{"a", "b"}},
		{"empty", "\n\na\n", []string{"", "", "a"}},
		{"dos", "a\r\nb\r\n", []string{"a", "b"}},
		{"dos twice", "a\r\r\n", []string{"a"}},
		{"progress bar", "10%\r50%\r100%\nok\n", []string{"100%", "ok"}},
		{"progress bar that starts with a return", "\r10%\r20%", []string{"20%"}},
		{"progress bar that ends with a return", "10%\r20%\r", []string{"20%"}},
		{"long", long + "ab\n", []string{long, "ab"}},
		{"long, as long as fits", long + "\n", []string{long}},
		{"long, broken between characters", long[1:] + "ö\n", []string{long[1:], "ö"}},
	} {
		if got := printed(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("a\r\n\x1b[31mb\x1b[0m\r50%\b\xff", 3)
	f.Add(strings.Repeat("\x80", maxLine+7), 9)
	f.Fuzz(func(t *testing.T, in string, at int) {
		whole := printed(in)
		if at >= 0 && at <= len(in) {
			if split := printed(in[:at], in[at:]); !slices.Equal(whole, split) {
				t.Errorf("%q in one write, %q in two", whole, split)
			}
		}
		for _, line := range whole {
			if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
				t.Errorf("%q would be obeyed", line)
			}
			for n := range 20 {
				if got := columns(cut(line, n)); got > n {
					t.Errorf("cut(%q, %d) has %d columns", line, n, got)
				}
			}
		}
	})
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 3_200_000: "3.2MB", 999_940: "999.9kB", 999_950: "1.0MB",
		10_000_000: "10.0MB", 1_500_000_000_000: "1.5TB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
