package lower

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// An expansion ends, is no longer than it may be, and leaves alone what holds nothing to expand.
func FuzzExpand(f *testing.F) {
	for _, word := range []string{
		"$A", "${A}", "${A:-b}", "${A:+${B}}", "${A#*.}", "${A%%/*}", "${A//a/b}", "${A:?no}", `'$A' "$A" \$A`, "${", "$", "$$", "${A", "x", "日$B",
	} {
		f.Add(word, "a.b/c", "", `\`)
		f.Add(word, "$B", "*", "`")
	}
	f.Fuzz(func(t *testing.T, word, a, b, escape string) {
		if escape != `\` && escape != "`" {
			return
		}
		env := newEnvironment()
		env.set("A", a)
		env.set("B", b)
		s := &stage{lowering: &lowering{lex: shell.NewLex(rune(escape[0]))}, env: env, current: command{Command: &instructions.EnvCommand{}}}
		got, err := s.expand(word)
		if err != nil {
			return
		}
		if len(got) > maxWord {
			t.Errorf("%q expands to %d bytes", word, len(got))
		}
		if utf8.ValidString(word) && !strings.ContainsAny(word, "$'\"\x00"+escape) && got != word {
			t.Errorf("%q becomes %q", word, got)
		}
		if again, err := s.expand(word); err != nil || again != got {
			t.Errorf("%q becomes %q, then %q: %v", word, got, again, err)
		}
	})
}

// What is taken for a mode is four octal digits, or changes; it means the same when it is read again.
func FuzzChmod(f *testing.F) {
	for _, text := range []string{"0", "640", "07777", "10000", "u=rwX,go=rX", "+x", "-", "a", "64a", "８", "u+s,g-s", "+640", "0x1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return // no --chmod at all
		}
		got, err := parseMode(text)
		if err != nil {
			return
		}
		if octal.MatchString(got) == (got == text) && len(text) != 4 {
			t.Errorf("%q is read as %q", text, got)
		}
		if again, err := parseMode(got); err != nil || again != got {
			t.Errorf("%q is read as %q, and that as %q: %v", text, got, again, err)
		}
	})
}

var octal = regexp.MustCompile(`^[0-7]{4}$`)

// A port that is taken is one that a config may have.
func FuzzPorts(f *testing.F) {
	for _, text := range []string{"80", "80/udp", "1-3/SCTP", "0-65535", "127.0.0.1:80:81", "[::1]::80", "a:80", "80/", "-1", ":", "1:2:3:4"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := parsePorts(text)
		if err == nil && len(ports) == 0 || len(ports) > 65536 {
			t.Errorf("%q is %d ports", text, len(ports))
		}
		for _, p := range ports {
			if !port.MatchString(p) {
				t.Errorf("%q gives the port %q", text, p)
			}
		}
	})
}

var port = regexp.MustCompile(`^(0|[1-9][0-9]{0,4})/(tcp|udp|sctp)$`)
