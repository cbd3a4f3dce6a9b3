package lower

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/parser"
)

// applyRun adds a process. Its text is not expanded, that is the shell's part,
// but it sees the variables and arguments as its environment.
func (s *stage) applyRun(c *instructions.RunCommand) error {
	op := &llb.Exec{
		Env:      s.env.list(),
		Cwd:      s.workdir(),
		User:     s.image.Config.User,
		Network:  s.opt.Network,
		Hostname: s.opt.Hostname,
		Hosts:    s.opt.Hosts,
		Proxy:    s.proxy,
	}
	var err error
	if op.Network, err = s.network(c); err != nil {
		return err
	}
	if op.Security, err = s.security(c); err != nil {
		return err
	}
	if op.Devices, err = s.devices(c); err != nil {
		return err
	}
	inputs, err := s.mounts(c, op)
	if err != nil {
		return err
	}
	s.asks(op.Mounts)
	summary := ""
	if len(c.Files) == 0 {
		op.Args = s.commandLine(c.ShellDependantCmdLine)
	} else if inputs, summary, err = s.script(c, op, inputs); err != nil {
		return err
	}
	if len(op.Args) == 0 {
		return errors.New("RUN needs a command")
	}
	// For people only: the variables that are set replaced, the rest as written.
	lex := shell.NewLex(s.file.Escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	s.step(op, s.describe(c.String()+summary, lex, s.masked(op.Mounts)), inputs...)
	return s.record("RUN "+s.withArgs(op.Args)+" # buildkit", true)
}

// network returns the network that a process sees: that of the build, unless the instruction names one.
func (s *stage) network(c *instructions.RunCommand) (llb.Network, error) {
	switch instructions.GetNetwork(c) {
	case instructions.NetworkNone:
		return llb.NetworkNone, nil
	case instructions.NetworkHost:
		if s.opt.AllowHostNetwork {
			return llb.NetworkHost, nil
		}
		return "", s.notAllowed(c, "network.host", "use the services of this host")
	}
	return s.opt.Network, nil
}

// security returns what a process may do: as all of this build, unless the instruction asks for more.
func (s *stage) security(c *instructions.RunCommand) (llb.Security, error) {
	security := s.opt.Security
	if instructions.GetSecurity(c) != instructions.SecurityInsecure {
		return security, nil
	}
	if !s.opt.AllowInsecure {
		return security, s.notAllowed(c, "security.insecure", "do what the sandbox is there to prevent")
	}
	security.Insecure = true
	return security, nil
}

// devices returns the devices of the host that a process may use.
func (s *stage) devices(c *instructions.RunCommand) ([]llb.Device, error) {
	var list []llb.Device
	for _, d := range instructions.GetDevices(c) {
		if s.opt.Device == nil {
			return nil, s.notAllowed(c, "device", "use devices of this host")
		}
		given, err := s.opt.Device(llb.Device{Name: d.Name, Required: d.Required})
		if err != nil {
			return nil, err
		}
		list = append(list, given)
	}
	return list, nil
}

// notAllowed is the error of a process that asks for a right which the build was not given.
func (s *stage) notAllowed(c *instructions.RunCommand, right, use string) error {
	err := s.file.At(c.Location(), fmt.Errorf("%s is not allowed", right))
	if positioned := (*parser.Error)(nil); errors.As(err, &positioned) {
		positioned.Hint = fmt.Sprintf("build with --allow %s if the Dockerfile may %s", right, use)
	}
	return err
}

// withArgs puts the declared arguments before a command as history shows them, "|2 A=1 B=2 make": each
// once, where it was declared first, with the value that the process sees.
func (s *stage) withArgs(args []string) string {
	var words []string
	seen := map[string]bool{}
	for _, arg := range s.args {
		if seen[arg.Key] {
			continue
		}
		seen[arg.Key] = true
		value, ok := s.env.Get(arg.Key)
		if !ok {
			value = s.lastValue(arg.Key)
		}
		words = append(words, arg.Key+"="+value)
	}
	if len(words) > 0 {
		words = slices.Insert(words, 0, fmt.Sprintf("|%d", len(words)))
	}
	return strings.Join(append(words, args...), " ")
}

// lastValue returns the value of an argument that is no variable.
func (s *stage) lastValue(key string) (value string) {
	for _, arg := range s.args {
		if arg.Key == key {
			value = arg.ValueString()
		}
	}
	return value
}

// commandLine returns the words of RUN, CMD or ENTRYPOINT; the shell form goes to the shell in force.
func (s *stage) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return append(s.shell(), strings.Join(c.CmdLine, " "))
}

// proxyVariables returns the proxy settings among the build arguments, under
// both cases of their names. A RUN sees them without a declaration.
func proxyVariables(buildArgs map[string]string) []string {
	values := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(buildArgs)) {
		values[strings.ToLower(key)] = buildArgs[key]
	}
	var list []string
	for _, key := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		if v := values[key]; v != "" {
			list = append(list, strings.ToUpper(key)+"="+v, key+"="+v)
		}
	}
	return list
}
