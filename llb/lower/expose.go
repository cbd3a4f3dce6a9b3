package lower

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// applyExpose notes ports. Unlike elsewhere a variable may hold several words.
func (s *stage) applyExpose(c *instructions.ExposeCommand) error {
	var specs, ports []string
	for _, word := range c.Ports {
		expanded, err := s.expandWord(s.lex, word, s.env)
		if err != nil {
			return err
		}
		specs = append(specs, expanded.Words...)
	}
	for _, spec := range specs {
		s.lintPort(spec)
		more, err := parsePorts(spec)
		if err == nil {
			err = s.grow(spec, len(more)*len("65535/tcp "))
		}
		if err != nil {
			return err
		}
		ports = append(ports, more...)
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		s.image.Config.ExposedPorts[p] = struct{}{}
	}
	return s.record(fmt.Sprintf("EXPOSE %v", ports), false)
}

// parsePorts reads [[ip:]host:]first[-last][/protocol] and returns the ports
// of the container as "80/tcp". What is published where is not the image's to
// say, but has always been accepted.
func parsePorts(spec string) ([]string, error) {
	ip, host, container := splitPorts(spec)
	container, written, _ := strings.Cut(container, "/")
	proto := strings.ToLower(written)
	switch {
	case container == "":
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	case proto == "":
		proto = "tcp"
	case proto != "tcp" && proto != "udp" && proto != "sctp":
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, written)
	}
	if ip != "" && net.ParseIP(strings.Trim(ip, "[]")) == nil {
		return nil, fmt.Errorf("invalid IP address: %s", ip)
	}
	first, last, err := parseRange(container)
	if err != nil {
		return nil, fmt.Errorf("invalid containerPort: %s", container)
	}
	if host != "" {
		hostFirst, hostLast, err := parseRange(host)
		if err != nil {
			return nil, fmt.Errorf("invalid hostPort: %s", host)
		}
		if first != last && last-first != hostLast-hostFirst {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", container, host)
		}
	}
	ports := make([]string, 0, last-first+1)
	for p := first; p <= last; p++ {
		ports = append(ports, strconv.Itoa(p)+"/"+proto)
	}
	return ports, nil
}

// splitPorts splits at the last two colons: an IPv6 address has its own.
func splitPorts(spec string) (ip, host, container string) {
	i := strings.LastIndexByte(spec, ':')
	if i < 0 {
		return "", "", spec
	}
	host, container = spec[:i], spec[i+1:]
	if i = strings.LastIndexByte(host, ':'); i >= 0 {
		ip, host = host[:i], host[i+1:]
	}
	return ip, host, container
}

func parseRange(s string) (first, last int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = parsePort(from); err != nil || !isRange {
		return first, first, err
	}
	if last, err = parsePort(to); err == nil && last < first {
		err = errors.New("range ends before it starts")
	}
	return first, last, err
}

func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// lintPort finds ports that say more than an image can, or say it in capitals.
func (s *stage) lintPort(spec string) {
	ip, host, container := splitPorts(spec)
	if _, proto, _ := strings.Cut(container, "/"); proto != strings.ToLower(proto) {
		rule := &linter.RuleExposeProtoCasing
		s.warn(rule, rule.Format(spec))
	}
	if ip != "" || host != "" {
		rule := &linter.RuleExposeInvalidFormat
		s.warn(rule, rule.Format(spec))
	}
}
