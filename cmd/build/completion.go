package main

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/spf13/cobra"
)

// flagValues are what shells complete for flags of all verbs that have a few values.
var flagValues = map[string][]string{
	"progress":     {"auto", "tty", "plain", "rawjson", "quiet"},
	"isolation":    {autoIsolation, "root", "subids", "single", "chroot"},
	"network":      {"default", "none", "host"},
	"call":         {"build", "check", "outline", "targets", "subrequests.describe"},
	"allow":        {"network.host", "security.insecure", "device"},
	"security-opt": {"seccomp=unconfined", "no-new-privileges=false"},
	"platform":     {"local", "linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"},
	"ssh":          {"default"},
}

// flagFolders are flags whose value is a folder.
var flagFolders = []string{"root", "cdi-spec-dir"}

// completeFlags tells shells the values of flags.
func completeFlags(root *cobra.Command) {
	for _, c := range append(root.Commands(), root) {
		for name, values := range flagValues {
			if c.Flags().Lookup(name) != nil {
				must(c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
			}
		}
		for _, name := range flagFolders {
			if c.Flags().Lookup(name) != nil {
				must(c.MarkFlagDirname(name))
			}
		}
	}
	for _, name := range flagFolders {
		if root.PersistentFlags().Lookup(name) != nil {
			must(root.MarkPersistentFlagDirname(name))
		}
	}
}

// must is for errors that only a mistake in this program can be.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// completeBuild tells shells what a build takes: folders, and names that its Dockerfile has.
func (a *app) completeBuild(c *cobra.Command, o *buildOptions) {
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	stages := func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		if p := a.sketch(o, args); p != nil {
			for _, s := range p.file.Stages {
				if s.Name != "" {
					names = append(names, s.Name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	must(c.RegisterFlagCompletionFunc("target", stages))
	must(c.RegisterFlagCompletionFunc("no-cache-filter", stages))
	must(c.RegisterFlagCompletionFunc("build-arg", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.sketch(o, args).arguments(), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}))
	if c.Flags().Lookup("output") == nil {
		return // of a plan
	}
	outputs := []string{"type=oci,dest=", "type=docker,dest=", "type=tar,dest=", "type=local,dest=", "type=image,name=", "type=registry,name=", "type=cacheonly"}
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoSpace)))
}

// sketch returns the plan of a command line that is being written, with its Dockerfile; nil when that cannot be read here and now.
func (a *app) sketch(o *buildOptions, args []string) *plan {
	p := &plan{buildOptions: o, context: "."}
	if len(args) > 0 {
		p.context = args[0]
	}
	if planContext(p) != nil || a.readDockerfile(p) != nil || p.file == nil {
		return nil
	}
	return p
}

// arguments returns the arguments that the Dockerfile declares, as the beginnings of values for --build-arg.
func (p *plan) arguments() (list []string) {
	if p == nil {
		return nil
	}
	add := func(c *instructions.ArgCommand) {
		for _, arg := range c.Args {
			if text := arg.Key + "="; !slices.Contains(list, text) {
				list = append(list, text)
			}
		}
	}
	for i := range p.file.MetaArgs {
		add(&p.file.MetaArgs[i])
	}
	for _, s := range p.file.Stages {
		for _, cmd := range s.Commands {
			if c, ok := cmd.(*instructions.ArgCommand); ok {
				add(c)
			}
		}
	}
	return list
}

// withVerbToComplete returns args as they are, unless a shell asks with them how a command line goes on: then the main verb is put
// in front of that, as by withVerb. The last word of it is not finished.
func withVerbToComplete(root *cobra.Command, args []string) []string {
	at := countOptions(root.PersistentFlags(), args) + 1
	if at >= len(args) || args[at-1] != cobra.ShellCompRequestCmd && args[at-1] != cobra.ShellCompNoDescRequestCmd {
		return args
	}
	completeFlags(root)
	before, last := args[at:len(args)-1], args[len(args)-1]
	begun := before[countOptions(root.PersistentFlags(), before):]
	verb := func(c *cobra.Command) bool {
		if c.Name() == mainVerb {
			return false
		}
		if len(begun) > 0 {
			return c.Name() == begun[0]
		}
		return strings.HasPrefix(c.Name(), last)
	}
	root.InitDefaultCompletionCmd(args[at:]...)
	root.InitDefaultHelpCmd()
	if slices.ContainsFunc(root.Commands(), verb) {
		return args
	}
	return slices.Insert(slices.Clone(args), at, mainVerb)
}
