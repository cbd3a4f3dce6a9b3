package lower

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/seed0570efb0/build/parser"
)

// allocated returns how many bytes f takes from the heap, freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// generous is far more than any of the tests may take, and far less than what is asked for in them.
const generous = 1 << 30

// What a text would expand to is known to be too much before it is made.
func TestExpandBounded(t *testing.T) {
	env := newEnvironment()
	for _, name := range []string{"A", "B", "C", "@"} {
		env.set(name, strings.Repeat(strings.ToLower(name), maxWord))
	}
	for _, text := range []string{
		strings.Repeat("$B", 10_000),
		strings.Repeat("${B:-x}", 10_000),
		"${A//a/$B}",
		"${@//@/$B}",
		`"${A//a/'$B'$B}"`,
		"${A//a/${B/b/$C}}",
		"${A//a/${B//b/cc}}",
		"${A//a/${B//b/${C//c/dddd}}}",
		`${A//a/\}${B//b/$C}}`,
		"${A//a/" + strings.Repeat("b", 64<<10) + "}",
	} {
		var err error
		used := allocated(func() { _, err = new(lowering).expandText(shell.NewLex('\\'), text, env) })
		if err == nil || used > generous {
			t.Errorf("%.60s: %v, and %d MiB were used", text, err, used>>20)
		}
	}
}

// What people write is far from the bounds.
func TestExpandAllowed(t *testing.T) {
	env := newEnvironment()
	env.set("V", strings.Repeat("1.", 500))
	env.set("W", strings.Repeat("a:", 50<<10))
	for text, want := range map[string]int{
		"${V//./-}${V//1/2}${V//./_}${V//1/}${V//./}${V//1/3}": 5000,
		"${W//:/ }":                  100 << 10,
		"${W//:/$V}":                 0, // 50 MiB
		"${V//./${V//1/}}":           500 + 500*500,
		strings.Repeat("$V", 100):    100_000,
		"${W:+yes}${W:+yes}${W%%:*}": 7,
	} {
		expanded, err := new(lowering).expandText(shell.NewLex('\\'), text, env)
		if got := len(expanded.Result); (err == nil) != (want > 0) || err == nil && got != want {
			t.Errorf("%.60s: %d bytes, want %d: %v", text, got, want, err)
		}
	}
}

// No chain of lines grows beyond the bounds, whatever instruction it is made of.
func TestChainsBounded(t *testing.T) {
	chain := func(format string) string {
		var b strings.Builder
		for i := range 60 {
			fmt.Fprintf(&b, format+"\n", i+1, strings.Repeat(fmt.Sprintf("$A%d", i), 8))
		}
		return b.String()
	}
	many := func(format string) string {
		var b strings.Builder
		for i := range 1_000 {
			fmt.Fprintf(&b, format+"\n", i)
		}
		return b.String()
	}
	const long = "ENV B=1234567812345678\nENV B=$B$B$B$B$B$B$B$B\nENV B=$B$B$B$B$B$B$B$B\nENV B=$B$B$B$B$B$B$B$B\nENV B=$B$B$B$B$B$B$B$B\n"
	overridden := map[string]string{}
	for i := range 61 {
		overridden[fmt.Sprintf("A%d", i)] = "x"
	}
	for name, c := range map[string]struct {
		text  string
		args  map[string]string
		works bool
	}{
		"global ARG":   {text: "ARG A0=12345678\n" + chain("ARG A%d=%s") + "FROM scratch\n"},
		"overridden":   {text: "ARG A0=12345678\n" + chain("ARG A%d=%s") + "FROM scratch\n", args: overridden, works: true},
		"ARG":          {text: "FROM scratch\nARG A0=12345678\n" + chain("ARG A%d=%s")},
		"ENV":          {text: "FROM scratch\nENV A0=12345678\n" + chain("ENV A%d=%s")},
		"many values":  {text: "FROM scratch\n" + long + many("ENV X%d=$B")},
		"many globals": {text: strings.ReplaceAll(long, "ENV", "ARG") + many("ARG X%d=$B") + "FROM scratch\n"},
		"documents":    {text: "FROM scratch\n" + long + many("COPY <<E /%d\n"+strings.Repeat("$B", 120)+"\nE")},
		"ports":        {text: "FROM scratch\nEXPOSE" + strings.Repeat(" 1-65535", 8000) + "\n"},
		"many ports":   {text: "FROM scratch\n" + many("EXPOSE 1-65535 %d")},
		"arguments":    {text: "FROM scratch\n" + strings.ReplaceAll(long, "ENV", "ARG") + many("RUN : %d")},
		"folders":      {text: "FROM scratch\n" + many("WORKDIR %d"+strings.Repeat("/folder", 500))},
		"LABEL":        {text: "FROM scratch\n" + long + many("LABEL X%d=$B")},
		"EXPOSE":       {text: "FROM scratch\n" + long + "EXPOSE " + strings.Repeat("$B", 4000) + "\n"},
		"heredoc":      {text: "FROM scratch\n" + long + "COPY <<E /x\n" + strings.Repeat("$B", 4000) + "\nE\n"},
		"epoch":        {text: "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\n" + strings.ReplaceAll(long, "ENV", "ARG") + "ADD http://x.example/" + strings.Repeat("$B", 4000) + " /\nFROM scratch\n"},
		"label":        {text: "FROM scratch\n" + long + "RUN " + strings.Repeat("$B", 4000) + "\n", works: true},
	} {
		f, err := parser.Parse("Dockerfile", []byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		used := allocated(func() { _, err = Lower(context.Background(), f, Options{BuildArgs: c.args}) })
		if (err == nil) != c.works || used > generous {
			t.Errorf("%s: %v, and %d MiB were used", name, err, used>>20)
		}
		if err != nil && !strings.Contains(err.Error(), "expand") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
