package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/tonistiigi/go-csvvalue"

	"github.com/seed0570efb0/build/executor/sandbox"
)

// volumeOptions are the flags of build run that mount something.
type volumeOptions struct{ volumes, tmpfs, mounts []string }

func (o *volumeOptions) flags(f *pflag.FlagSet) {
	repeatedVar(f, &o.volumes, "volume", "v", "show a file or folder of this host, as `SOURCE:TARGET[:ro|rw]`")
	repeatedVar(f, &o.tmpfs, "tmpfs", "", "an empty folder in memory, as `TARGET[:OPTION,...]`: size=64m, mode=1777, exec, ro")
	repeatedVar(f, &o.mounts, "mount", "", "either of them, as `OPTION=VALUE,...`: type=bind,source=SOURCE,target=TARGET[,readonly] or type=tmpfs,target=TARGET")
}

// parse reads the flags.
func (o *volumeOptions) parse() (list []sandbox.Mount, err error) {
	for _, kind := range []struct {
		flag  string
		texts []string
		parse func(string) (sandbox.Mount, error)
	}{
		{"--volume", o.volumes, parseVolume},
		{"--tmpfs", o.tmpfs, parseTmpfs},
		{"--mount", o.mounts, parseMount},
	} {
		for _, text := range kind.texts {
			m, err := kind.parse(text)
			if err == nil {
				err = checkVolume(&m)
			}
			if hinted := (*usageError)(nil); errors.As(err, &hinted) {
				return nil, usagef(hinted.hint, "%s %s: %w", kind.flag, text, hinted.err)
			}
			if err != nil {
				return nil, usagef("", "%s %s: %w", kind.flag, text, err)
			}
			list = append(list, m)
		}
	}
	return list, nil
}

// checkVolume checks what all ways to name a mount have in common.
func checkVolume(m *sandbox.Mount) error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
		return usagef("it is an absolute path in the container", "target %q", m.Target)
	}
	if m.Type != sandbox.MountBind {
		return nil
	}
	var err error
	if m.Source, err = filepath.Abs(m.Source); err != nil {
		return err
	}
	if _, err = os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
		return usagef("make it first: mkdir -p "+m.Source, "there is no such file or folder on this host")
	}
	return err
}

const volumeHint = "it looks like /host/path:/container/path[:ro]"

// parseVolume reads SOURCE:TARGET[:OPTION,...].
func parseVolume(text string) (m sandbox.Mount, err error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 {
		return m, usagef("a container's files are its own, and gone with it, without a volume; a volume "+volumeHint[3:], "a volume without a source is not supported")
	}
	if len(parts) > 3 || parts[0] == "" {
		return m, usagef(volumeHint, "it has no form that is known")
	}
	if !strings.Contains(parts[0], "/") && parts[0] != "." && parts[0] != ".." {
		return m, usagef("name a folder of this host by its path, like "+"./"+parts[0], "named volumes are not supported")
	}
	m = sandbox.Mount{Type: sandbox.MountBind, Source: parts[0], Target: parts[1]}
	if len(parts) < 3 {
		return m, nil
	}
	for o := range strings.SplitSeq(parts[2], ",") {
		switch o {
		case "ro":
			m.ReadOnly = true
		case "rw", "z", "Z": // no process gets an SELinux label here, so every one sees what has any
		default:
			return m, usagef("ro and rw are", "option %q is not supported", o)
		}
	}
	return m, nil
}

// parseTmpfs reads TARGET[:OPTION,...].
func parseTmpfs(text string) (m sandbox.Mount, err error) {
	m = sandbox.Mount{Type: sandbox.MountTmpfs, NoExec: true}
	target, options, some := strings.Cut(text, ":")
	m.Target = target
	if !some {
		return m, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "rw", "nosuid", "nodev": // as they all are
		case "ro":
			m.ReadOnly = true
		case "exec":
			m.NoExec = false
		case "noexec":
			m.NoExec = true
		case "size":
			m.Size, err = parseSize("size", value)
		case "mode":
			err = parseMode(&m, value)
		default:
			err = usagef("size, mode, exec, noexec, ro and rw are", "option %q is not supported", o)
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// parseMount reads the KEY=VALUE,... of --mount.
func parseMount(text string) (m sandbox.Mount, err error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return m, err
	}
	m.Type = "volume"
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "type":
			m.Type = sandbox.MountType(value)
		case "source", "src":
			m.Source = value
		case "target", "destination", "dst":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly = value == ""
			if value != "" {
				if m.ReadOnly, err = strconv.ParseBool(value); err != nil {
					err = usagef("it is true or false", "option %q", f)
				}
			}
		case "tmpfs-size":
			m.Size, err = parseSize("size", value)
		case "tmpfs-mode":
			err = parseMode(&m, value)
		default:
			err = usagef("type, source, target, readonly, tmpfs-size and tmpfs-mode are", "option %q is not supported", f)
		}
		if err != nil {
			return m, err
		}
	}
	return m, checkMount(&m)
}

func checkMount(m *sandbox.Mount) error {
	switch {
	case m.Type == sandbox.MountTmpfs && m.Source == "":
		m.NoExec = true
		return nil
	case m.Type == sandbox.MountTmpfs:
		return usagef("leave source out", "a tmpfs has no source")
	case m.Type != sandbox.MountBind:
		return usagef("bind and tmpfs are", "type %q is not supported", string(m.Type))
	case m.Source == "":
		return usagef("it looks like type=bind,source=/host/path,target=/container/path", "the source is missing")
	case m.Size != 0 || m.Mode != 0:
		return usagef("size and mode are for type=tmpfs", "a bind mount has those of its source")
	}
	return nil
}

func parseMode(m *sandbox.Mount, text string) error {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode == 0 || mode > 0o7777 {
		return usagef("it is an octal number, like 1777", "mode %q", text)
	}
	m.Mode = uint32(mode)
	return nil
}
