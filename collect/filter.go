package collect

import (
	"fmt"
	"strings"
	"time"
)

// A Filter selects records.
type Filter func(*Record) bool

// ParseFilter reads KEY, KEY=VALUE, KEY!=VALUE or KEY~=VALUE, as docker's and buildx's --filter. A word is true for what
// has that property; with ~= a text holds the value, and an ID begins with it.
func ParseFilter(text string, now time.Time) (Filter, error) {
	key, op, value := cutFilter(text)
	if key == "until" {
		return parseUntil(op, value, now)
	}
	if has := properties[key]; has != nil {
		return parseProperty(key, has, op, value)
	}
	get := fields[key]
	if get == nil {
		return nil, fmt.Errorf("%q: no such key; there are id, parents, type, description, inuse, mutable, immutable, shared, private and until", key)
	}
	if op == "" || value == "" {
		return nil, fmt.Errorf("%s: a value is missing, as in %s=...", text, key)
	}
	match := func(have string) bool { return have == value }
	if strings.HasPrefix(op, "~") || key == "id" || key == "parents" { // people shorten IDs
		match = func(have string) bool { return strings.Contains(have, value) }
	}
	return func(r *Record) bool {
		found := false
		for _, have := range get(r) {
			found = found || match(have)
		}
		return found == (op != "!=")
	}, nil
}

// cutFilter cuts a filter at its operator, "" where there is none.
func cutFilter(text string) (key, op, value string) {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return text, "", ""
	}
	op = "="
	if k, not := strings.CutSuffix(key, "!"); not {
		key, op = k, "!="
	} else if k, like := strings.CutSuffix(key, "~"); like {
		key, op = k, "~="
	} else if v, twice := strings.CutPrefix(value, "="); twice {
		value = v
	}
	return key, op, value
}

// properties are what a record is or is not.
var properties = map[string]func(*Record) bool{
	"inuse":     func(r *Record) bool { return r.InUse },
	"mutable":   func(r *Record) bool { return r.Mutable },
	"immutable": func(r *Record) bool { return !r.Mutable },
	"shared":    func(r *Record) bool { return r.Shared },
	"private":   func(r *Record) bool { return !r.Shared },
}

// fields are the texts of a record, of which some have several.
var fields = map[string]func(*Record) []string{
	"id":          func(r *Record) []string { return []string{r.ID.String()} },
	"type":        func(r *Record) []string { return []string{string(r.Type)} },
	"description": func(r *Record) []string { return []string{r.Description} },
	"parents": func(r *Record) (list []string) {
		for _, d := range r.Parents {
			list = append(list, d.String())
		}
		return list
	},
}

func parseProperty(key string, has func(*Record) bool, op, value string) (Filter, error) {
	want := map[string]bool{"": true, "true": true, "1": true, "false": false, "0": false}
	yes, ok := want[value]
	if !ok || op == "~=" || op != "" && value == "" {
		return nil, fmt.Errorf("%s is true or false", key)
	}
	yes = yes == (op != "!=")
	return func(r *Record) bool { return has(r) == yes }, nil
}

// parseUntil reads the age that a record must have, since it was used: a duration, or a time.
func parseUntil(op, value string, now time.Time) (Filter, error) {
	if op != "=" {
		return nil, fmt.Errorf("until: write it as until=24h")
	}
	before, err := time.Parse(time.RFC3339, value)
	if err != nil {
		age, err := ParseAge(value)
		if err != nil {
			return nil, fmt.Errorf("until=%s: %w", value, err)
		}
		before = now.Add(-age)
	}
	return func(r *Record) bool { return r.LastUsed.Before(before) }, nil
}

// ParseAge reads a duration: 90m, 24h, and 7d as well.
func ParseAge(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok && err != nil {
		if d, err = time.ParseDuration(days + "h"); err == nil {
			d *= 24
		}
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration like 90m, 24h or 7d", text)
	}
	return d, nil
}
