package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
	"github.com/seed0570efb0/build/llb"
)

// securityOptions are the values of --security-opt.
type securityOptions []string

func (o *securityOptions) flags(f *pflag.FlagSet) {
	repeatedVar(f, (*[]string)(o), "security-opt", "", "an `OPTION` of what a process may do: seccomp=unconfined for all system calls, no-new-privileges=false for set-user-ID programs")
}

// parse reads the options.
func (o securityOptions) parse() (s llb.Security, err error) {
	for _, text := range o {
		// Docker knew ":" before "=".
		name, value, _ := strings.Cut(strings.Replace(text, ":", "=", 1), "=")
		switch {
		case name == "no-new-privileges" && (value == "" || value == "true"):
			s.NewPrivileges = false
		case name == "no-new-privileges" && value == "false":
			s.NewPrivileges = true
		case name == "seccomp" && value == "unconfined":
			s.Unconfined = true
		case name == "seccomp" && (value == "default" || value == "builtin"):
			s.Unconfined = false
		case name == "seccomp":
			return s, usagef("seccomp=unconfined allows all system calls", "--security-opt %s: profiles of one's own are not supported", text)
		case name == "apparmor" && value == "unconfined", name == "label" && value == "disable": // as it is: neither is set
		default:
			return s, usagef("seccomp=unconfined and no-new-privileges[=false] are", "--security-opt %s: not supported", text)
		}
	}
	return s, nil
}

// checkSecurity returns an error if the isolation that is in force cannot give what s asks for.
func (a *app) checkSecurity(s llb.Security) error {
	if !s.NewPrivileges || a.choice.Mode != userns.SingleID.String() && a.choice.Root != sandbox.RootChroot {
		return nil
	}
	return &userns.HostError{
		What:  "--security-opt no-new-privileges=false",
		Cause: errors.New("set-user-ID programs have no effect with isolation " + a.choice.Mode),
		Hint:  `"build doctor" says how to get a better isolation`,
	}
}
