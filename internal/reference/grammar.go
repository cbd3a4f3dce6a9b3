package reference

import "strings"

// isDomain reports whether s is a host name, an IPv4 address or an IPv6 address in brackets, with or without a port.
func isDomain(s string) bool {
	host, port, ok := s, "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 || !all(s[1:end], func(c byte) bool { return c == ':' || isHex(c) || c >= 'A' && c <= 'F' }) {
			return false
		}
		if s = s[end+1:]; s == "" {
			return true
		}
		port, ok = strings.CutPrefix(s, ":")
		return ok && isNumber(port)
	}
	if host, port, ok = strings.Cut(s, ":"); ok && !isNumber(port) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !all(label, func(c byte) bool { return isAlphanumeric(c) || c == '-' }) {
			return false
		}
	}
	return true
}

// isPath reports whether s is one or more elements of lower case letters and digits, between which
// there may be a period, one or two underscores or any number of dashes.
func isPath(s string) bool {
	for element := range strings.SplitSeq(s, "/") {
		if !isElement(element) {
			return false
		}
	}
	return true
}

func isElement(s string) bool {
	for {
		n := prefix(s, func(c byte) bool { return isLower(c) || isDigit(c) })
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		switch {
		case s[0] == '-':
			s = strings.TrimLeft(s, "-")
		case strings.HasPrefix(s, "__"):
			s = s[2:]
		case s[0] == '.' || s[0] == '_':
			s = s[1:]
		default:
			return false
		}
	}
}

func isTag(s string) bool {
	return s != "" && len(s) <= maxTag && s[0] != '.' && s[0] != '-' &&
		all(s, func(c byte) bool { return isAlphanumeric(c) || strings.IndexByte("_.-", c) >= 0 })
}

// isAlgorithm reports whether s is words that begin with a letter, with one of -_+. between them.
func isAlgorithm(s string) bool {
	for {
		n := prefix(s, isAlphanumeric)
		if n == 0 || isDigit(s[0]) {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		if strings.IndexByte("-_+.", s[0]) < 0 {
			return false
		}
		s = s[1:]
	}
}

func isNumber(s string) bool { return s != "" && all(s, isDigit) }

// prefix returns how many bytes s begins with that are of a kind.
func prefix(s string, is func(byte) bool) int {
	for i := range len(s) {
		if !is(s[i]) {
			return i
		}
	}
	return len(s)
}

func all(s string, is func(byte) bool) bool { return prefix(s, is) == len(s) }

func isDigit(c byte) bool        { return c >= '0' && c <= '9' }
func isLower(c byte) bool        { return c >= 'a' && c <= 'z' }
func isHex(c byte) bool          { return isDigit(c) || c >= 'a' && c <= 'f' }
func isAlphanumeric(c byte) bool { return isDigit(c) || isLower(c) || c >= 'A' && c <= 'Z' }
