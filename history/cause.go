package history

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed0570efb0/build/internal/digest"
)

// A Cause is why a step was not reused.
type Cause struct {
	Reason Reason `json:"reason"`
	// Text is one line for people.
	Text string `json:"text"`
}

// A Reason is the kind of a Cause, for programs.
type Reason string

// The reasons. When there are several the first of this list is named.
const (
	FirstBuild Reason = "first-build" // nothing to compare with
	NoCache    Reason = "no-cache"    // --no-cache, --no-cache-filter
	NewStep    Reason = "new-step"    // the earlier build had no such step
	Definition Reason = "definition"  // the instruction, or what it sees
	Files      Reason = "files"       // what it reads
	Input      Reason = "input"       // another step
	Remote     Reason = "remote"      // what lies elsewhere
	Unfinished Reason = "unfinished"  // the earlier build did not end the step
	Gone       Reason = "gone"        // the result is not in the store any more
)

// A Comparison explains the steps of one build by what was different in an earlier one.
type Comparison struct {
	Log *Log
	Now *Graph
	// Old and Before are the earlier build with its graph, nil for none.
	Old    *Graph
	Before *Build
	// Rerun reports whether a step of Now has run, or is about to.
	Rerun func(step int) bool
	// Evicted, when not nil, says what became of a result that was there, by the keys that led to it, like "evicted 2 h ago by
	// the size limit".
	Evicted func(definition, content digest.Digest) (string, bool)

	selecting func(step int) []Selection // what the steps of a build under way have read
	pairs     []int
	noCaches  []bool // of the steps of Now: see fresh
}

// Was returns the step of the earlier build that step was, or nil.
func (c *Comparison) Was(step int) *Step {
	if c.Old == nil {
		return nil
	}
	if c.pairs == nil {
		c.pairs = pair(c.Now, c.Old)
	}
	if j := c.pairs[step]; j >= 0 {
		return &c.Old.Steps[j]
	}
	return nil
}

// Cause returns why a step runs.
func (c *Comparison) Cause(step int) Cause {
	s := &c.Now.Steps[step]
	if s.NoCache && !s.Source() {
		return c.noCache(s)
	}
	if c.Old == nil {
		return Cause{FirstBuild, "first build"}
	}
	was := c.Was(step)
	if was == nil {
		return Cause{NewStep, "new step"}
	}
	if cause := c.Difference(step); cause.Text != "" || s.Source() {
		return cause
	}
	return c.lost(step, s, was)
}

func (c *Comparison) noCache(s *Step) Cause {
	if c.Now.NoCache {
		return Cause{NoCache, "--no-cache"}
	}
	stage, _ := s.parts()
	return Cause{NoCache, strings.TrimSpace("--no-cache-filter " + stage)}
}

// Changed is Difference, and says so when the earlier build had no such step.
func (c *Comparison) Changed(step int) Cause {
	if c.Was(step) == nil {
		return Cause{NewStep, "new step"}
	}
	return c.Difference(step)
}

// Difference returns what of a step that both builds have is not as it was; the zero Cause when that is nothing.
func (c *Comparison) Difference(step int) Cause {
	s, was := &c.Now.Steps[step], c.Was(step)
	if was == nil || !s.Definition.IsZero() && s.Definition == was.Definition {
		return Cause{}
	}
	var all []Cause
	add := func(r Reason, text string) {
		if text != "" {
			all = append(all, Cause{r, text})
		}
	}
	if s.Op != was.Op {
		add(Definition, fieldsCause(s.Fields, was.Fields))
	}
	if s.Source() {
		return joined(all)
	}
	var inputs []string
	for k := range s.Inputs {
		text, known := c.selected(step, was, k)
		if !known {
			inputs = append(inputs, c.changedInput(s, was, k))
		}
		add(Files, text)
	}
	for _, text := range inputs {
		add(Input, text)
	}
	if len(all) == 0 && (s.Kind == KindHTTP || s.Kind == KindGit) && !was.Definition.IsZero() {
		add(Remote, "what is there changed")
	}
	return joined(all)
}

// joined makes one cause of several.
func joined(all []Cause) Cause {
	if len(all) == 0 {
		return Cause{}
	}
	var texts []string
	for _, c := range all {
		if !slices.Contains(texts, c.Text) {
			texts = append(texts, c.Text)
		}
	}
	return Cause{all[0].Reason, strings.Join(texts, ", ")}
}

// selected says how what step reads of its input k has changed, if that is known of both builds. "" is not at all.
func (c *Comparison) selected(step int, was *Step, k int) (text string, known bool) {
	now, ok1 := c.selection(&c.Now.Steps[step], k)
	old, ok2 := c.selection(was, k)
	if !ok1 && c.selecting != nil {
		now, ok1 = selectionOf(c.selecting(step), k)
	}
	if !ok1 || !ok2 || k >= len(was.Inputs) {
		return "", false
	}
	if now == old {
		return "", true
	}
	return c.Log.filesCause(old, now, c.Now.Steps[step].Op != was.Op), true
}

// selection returns the digest of what a step reads of its input k.
func (c *Comparison) selection(s *Step, k int) (digest.Digest, bool) {
	if d, ok := selectionOf(s.Files, k); ok {
		return d, true
	}
	f, _ := c.Log.Facts(s.Definition)
	return selectionOf(f.Files, k)
}

func selectionOf(list []Selection, input int) (digest.Digest, bool) {
	i := slices.IndexFunc(list, func(f Selection) bool { return f.Input == input })
	if i < 0 {
		return digest.Digest{}, false
	}
	return list[i].Digest, true
}

// Expect returns how long a step will run, by what is known of it or of the step that it was; 0 is not known.
func (c *Comparison) Expect(step int) time.Duration {
	f, _ := c.Log.Facts(c.Now.Steps[step].Definition)
	if was := c.Was(step); f.Took == 0 && was != nil {
		f, _ = c.Log.Facts(was.Definition)
	}
	return f.Took
}

// changedInput says that the input k of s is another step, or is made in another way; "" when it is not.
func (c *Comparison) changedInput(s, was *Step, k int) string {
	i := s.Inputs[k]
	in := &c.Now.Steps[i]
	before := c.Was(i)
	name := "input " + brief(in.Label)
	switch {
	case in.Kind == KindLocal:
		return ""
	case before == nil:
		return name + " is new"
	case k >= len(was.Inputs) || c.Old.Steps[was.Inputs[k]].ID != before.ID:
		if k < len(was.Inputs) {
			return name + " in place of " + brief(c.Old.Steps[was.Inputs[k]].Label)
		}
		return name + " is new"
	case in.Definition.IsZero() || before.Definition.IsZero():
		// Not known: a source, or a step of a build without cache. What comes of what it reads shows when it has run.
		if in.ID != before.ID {
			return name + " changed"
		}
	case in.Definition != before.Definition:
		return name + " changed"
	}
	return ""
}

// lost returns why a step runs that is what it was.
func (c *Comparison) lost(step int, s, was *Step) Cause {
	if c.fresh(step) { // its definition was not asked for
		for k, i := range s.Inputs {
			if in := &c.Now.Steps[i]; !in.Source() && c.Rerun(i) {
				if text, known := c.selected(step, was, k); !known || text != "" {
					return Cause{Input, "input " + brief(in.Label) + " ran again and gave something else"}
				}
			}
		}
	}
	if c.Before != nil && c.Before.Status != Done {
		j := slices.IndexFunc(c.Old.Steps, func(o Step) bool { return o.ID == was.ID })
		switch c.Before.Outcome(j).Status {
		case Failed:
			return Cause{Unfinished, "it failed in the build before"}
		case Canceled:
			return Cause{Unfinished, "the build before ended before it was done"}
		}
	}
	if c.Evicted != nil {
		f, _ := c.Log.Facts(s.Definition)
		if text, ok := c.Evicted(s.Definition, f.Content); ok {
			return Cause{Gone, text}
		}
	}
	return Cause{Gone, "its result is not in the store any more"}
}

// fresh reports whether a step, or one that it is made from, is run whatever is known of it.
func (c *Comparison) fresh(step int) bool {
	if c.noCaches == nil {
		c.noCaches = make([]bool, len(c.Now.Steps))
		for i := range c.Now.Steps { // inputs come first
			s := &c.Now.Steps[i]
			c.noCaches[i] = s.NoCache || slices.ContainsFunc(s.Inputs, func(in int) bool { return c.noCaches[in] })
		}
	}
	return c.noCaches[step]
}

// fieldsCause says which fields are different.
func fieldsCause(now, old []Field) string {
	var texts []string
	before := map[string]Field{}
	for _, f := range old {
		before[f.Name] = f
	}
	ordered := false
	for _, f := range now {
		o, ok := before[f.Name]
		delete(before, f.Name)
		switch {
		case ok && o.Value == f.Value:
		case f.Name == order:
			ordered = true
		case f.Name == "layers" && len(texts) > 0: // the digest of the image says it
		case f.Hidden || o.Hidden:
			texts = append(texts, f.Name+" changed")
		case !ok || o.Value == "":
			texts = append(texts, fmt.Sprintf("%s is %s now", f.Name, shown(f.Value)))
		case f.Value == "":
			texts = append(texts, fmt.Sprintf("%s is not %s any more", f.Name, shown(o.Value)))
		default:
			a, b := distinct(o.Value, f.Value)
			texts = append(texts, fmt.Sprintf("%s %s -> %s", f.Name, a, b))
		}
	}
	for _, f := range old {
		if _, ok := before[f.Name]; ok && f.Name != order && f.Name != "digest" && f.Value != "" {
			texts = append(texts, "no "+f.Name+" any more")
		}
	}
	if len(texts) == 0 && ordered {
		return order + " changed"
	}
	if len(texts) == 0 {
		return "the instruction changed"
	}
	if n := len(texts) - named; n > 0 {
		texts = append(texts[:named], fmt.Sprintf("%d more changed", n))
	}
	return strings.Join(texts, ", ")
}

// width is how long a value may be that is shown.
const width = 40

// shown returns a value on one line, in quotes if it needs them.
func shown(value string) string {
	if strings.HasPrefix(value, "sha256:") && len(value) > 19 {
		return value[:19]
	}
	if utf8.RuneCountInString(value) > width {
		value = string([]rune(value)[:width-1]) + "…"
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == '"' || !strconv.IsPrint(r) }) {
		return strconv.Quote(value)
	}
	return value
}

// brief returns the beginning of a label.
func brief(label string) string {
	if r := []rune(label); len(r) > width+20 {
		return string(r[:width+19]) + "…"
	}
	return label
}

// distinct returns two values so that they do not look the same: of long ones it leaves out how they begin alike.
func distinct(a, b string) (string, string) {
	x, y := []rune(a), []rune(b)
	if max(len(x), len(y)) > width && !strings.HasPrefix(a, "sha256:") {
		n := 0
		for n < len(x) && n < len(y) && x[n] == y[n] {
			n++
		}
		if n > 10 {
			a, b = "…"+string(x[n-10:]), "…"+string(y[n-10:])
		}
	}
	return shown(a), shown(b)
}
