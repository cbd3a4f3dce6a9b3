package lower

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dfparser "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/patternmatcher"

	"github.com/seed0570efb0/build/internal/reference"
)

// The rules themselves, with their texts, are BuildKit's; what is here finds where they are broken. The parser
// has found some already.

// warn reports a rule that the instruction at hand breaks, unless a comment above it skips the rule.
func (s *stage) warn(rule linter.LinterRuleI, text string) {
	s.warnAt(rule, s.current.Location(), text)
}

func (s *stage) warnAt(rule linter.LinterRuleI, loc []dfparser.Range, text string) {
	s.lint.WithMergedConfigFromComments(s.current.Comments()).Run(rule, loc, text)
}

// warnFrom is warn for the FROM of the stage.
func (s *stage) warnFrom(rule linter.LinterRuleI, text string) {
	s.lint.WithMergedConfigFromComments(s.from.Comments).Run(rule, s.from.Location, text)
}

// lintNames finds stages with names that mean something else, or another stage.
func (l *lowering) lintNames() {
	seen := map[string]bool{}
	for _, s := range l.file.Stages {
		if s.Name == "" {
			continue
		}
		if s.Name == scratch || s.Name == "context" {
			rule := &linter.RuleReservedStageName
			l.lint.Run(rule, s.Location, rule.Format(s.Name))
		}
		if seen[s.Name] {
			rule := &linter.RuleDuplicateStageName
			l.lint.Run(rule, s.Location, rule.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// lintCasing finds instructions that are written otherwise than most.
func (l *lowering) lintCasing() {
	type word struct {
		text string
		loc  []dfparser.Range
	}
	var words []word
	for _, s := range l.file.Stages {
		words = append(words, word{s.OrigCmd, s.Location})
		for _, c := range s.Commands {
			words = append(words, word{c.Name(), c.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.text {
		case strings.ToLower(w.text):
			lower++
		case strings.ToUpper(w.text):
			upper++
		}
	}
	as, right := "uppercase", strings.ToUpper
	if lower > upper {
		as, right = "lowercase", strings.ToLower
	}
	for _, w := range words {
		if w.text != right(w.text) {
			rule := &linter.RuleConsistentInstructionCasing
			l.lint.Run(rule, w.loc, rule.Format(w.text, as))
		}
	}
}

// lintDefaults finds FROMs that name nothing when no argument is given.
func (l *lowering) lintDefaults() {
	args := l.globals.clone()
	for _, c := range l.file.MetaArgs {
		for _, arg := range c.Args {
			if arg.Value == nil {
				continue
			}
			value, err := l.expandWord(l.lex, *arg.Value, args)
			if err != nil {
				return // an error of the build
			}
			args.set(arg.Key, value.Result)
		}
	}
	for _, s := range l.file.Stages {
		name, err := l.expandWord(l.lex, s.BaseName, args)
		if err != nil {
			return
		}
		if _, err := reference.Parse(name.Result); err != nil {
			rule := &linter.RuleInvalidDefaultArgInFrom
			l.lint.Run(rule, s.Location, rule.Format(s.BaseName))
		}
	}
}

// lintFromWord finds variables of a FROM that nothing declares.
func (s *stage) lintFromWord(word shell.ProcessWordResult) {
	known := slices.Concat(s.globals.Keys(), slices.Sorted(maps.Keys(s.globalArgs)))
	for _, name := range slices.Sorted(maps.Keys(word.Unmatched)) {
		if slices.Contains(known, name) {
			continue
		}
		near, _ := suggest.Search(name, known, true)
		rule := &linter.RuleUndefinedArgInFrom
		s.warnFrom(rule, rule.Format(name, near))
	}
}

// lintPlatform finds platforms of a FROM that say nothing, or fix what the one who builds should choose.
func (s *stage) lintPlatform(word shell.ProcessWordResult) {
	target, _ := s.globals.Get("TARGETPLATFORM")
	_, isTarget := word.Matched["TARGETPLATFORM"]
	if isTarget && len(word.Matched) == 1 && len(word.Unmatched) == 0 && word.Result == target {
		rule := &linter.RuleRedundantTargetPlatform
		s.warnFrom(rule, rule.Format(s.from.Platform))
	}
	if len(word.Matched) > 0 || len(word.Unmatched) > 0 {
		return
	}
	p, err := platforms.Parse(word.Result)
	if err != nil || strings.Contains(s.from.Name, p.OS) || strings.Contains(s.from.Name, p.Architecture) {
		return // a stage that is called after its platform is meant so
	}
	rule := &linter.RuleFromPlatformFlagConstDisallowed
	s.warnFrom(rule, rule.Format(word.Result))
}

// lintOnce finds instructions of which only the last one of a stage counts.
func (s *stage) lintOnce(c instructions.Command) {
	name := strings.ToUpper(c.Name())
	if before, ok := s.once[name]; ok {
		rule := &linter.RuleMultipleInstructionsDisallowed
		s.warnAt(rule, before, rule.Format(c.Name()))
	}
	if s.once == nil {
		s.once = map[string][]dfparser.Range{}
	}
	s.once[name] = c.Location()
}

// lintShellForm finds command lines that a shell stands between.
func (s *stage) lintShellForm(name string, prependShell bool) {
	if prependShell && len(s.image.Config.Shell) == 0 {
		rule := &linter.RuleJSONArgsRecommended
		s.warn(rule, rule.Format(name))
	}
}

func (s *stage) lintPairs(name string, pairs instructions.KeyValuePairs) {
	for _, kv := range pairs {
		if kv.NoDelim {
			rule := &linter.RuleLegacyKeyValueFormat
			s.warn(rule, rule.Format(name))
		}
	}
}

// Words in the names of variables with secrets, and words that make them harmless.
var (
	secretWords   = []string{"apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"}
	harmlessWords = []string{"public", "file", "version"}
)

// lintSecret finds variables that keep a secret in the image.
func (s *stage) lintSecret(instruction, name string) {
	words := strings.Split(strings.ToLower(name), "_")
	has := func(list []string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return slices.Contains(list, word) })
	}
	if has(secretWords) && !has(harmlessWords) {
		rule := &linter.RuleSecretsUsedInArgOrEnv
		s.warn(rule, rule.Format(instruction, name))
	}
}

func (s *stage) lintWorkdir(dir string) {
	if !s.workdirSet && !path.IsAbs(dir) {
		rule := &linter.RuleWorkdirRelativePath
		s.warn(rule, rule.Format(dir))
	}
	s.workdirSet = true
}

// lintIgnored finds sources of the main context that its .dockerignore leaves out. Where it takes something back, with
// "!", that cannot be told without the files.
func (s *stage) lintIgnored(instruction, source string) {
	matcher, err := patternmatcher.New(s.opt.Ignore)
	if err != nil || len(s.opt.Ignore) == 0 || matcher.Exclusions() {
		return
	}
	source = path.Clean(source)
	all := func(p string) bool { return p == "*" || p == "**" || p == "**/*" }
	if (source == "." || source == "/") && !slices.ContainsFunc(s.opt.Ignore, all) {
		return
	}
	if ignored, err := matcher.MatchesOrParentMatches(source); err == nil && ignored {
		rule := &linter.RuleCopyIgnoredFile
		s.warn(rule, rule.Format(instruction, source))
	}
}

// lintUnset finds variables that nothing sets.
func (s *stage) lintUnset(names map[string]struct{}) {
	for _, a := range s.args {
		delete(names, a.Key) // declared without a value: unset on purpose
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if notForRun(name) {
			continue
		}
		near, _ := suggest.Search(name, s.env.Keys(), true)
		rule := &linter.RuleUndefinedVar
		s.warn(rule, rule.Format(name, near))
	}
}
