package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/util/suggest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// mainVerb is the verb of a command line that names none. It is not for people to write.
const mainVerb = "build"

// A verb is what this program can do, by name.
type verb struct {
	name    string
	command func(*app) *cobra.Command
}

// verbs returns all verbs. It is no variable, since they ask for each other's names.
func verbs() []verb {
	return []verb{
		{mainVerb, (*app).buildCommand}, {"run", (*app).runCommand}, {"images", (*app).imagesCommand}, {"rmi", (*app).rmiCommand}, {"push", (*app).pushCommand},
		{"save", (*app).saveCommand}, {"history", (*app).historyCommand}, {"inspect", (*app).inspectCommand}, {"why", (*app).whyCommand},
		{"plan", (*app).planCommand}, {"du", (*app).duCommand}, {"prune", (*app).pruneCommand}, {"fsck", (*app).fsckCommand},
		{"doctor", (*app).doctorCommand}, {"version", (*app).versionCommand},
	}
}

func isVerb(name string) bool {
	return slices.ContainsFunc(verbs(), func(v verb) bool { return v.name == name })
}

// nearVerb returns the verb that word is, or nearly is; "" when it is like none.
func nearVerb(word string) string {
	if isVerb(word) {
		return word
	}
	if len(word) < 3 {
		return ""
	}
	var names []string
	for _, v := range verbs() {
		names = append(names, v.name)
	}
	near, _ := suggest.Search(word, names, true)
	return near
}

// meantVerb returns the hint for who has written a word that names nothing here where a verb can be; "" when it is like none.
func meantVerb(word string) string {
	if exists(word) {
		return ""
	}
	switch near := nearVerb(word); near {
	case "":
		return ""
	case mainVerb:
		return fmt.Sprintf("leave %q out: to build needs no verb", word)
	default:
		return fmt.Sprintf(`did you mean "build %s"?`, near)
	}
}

// command returns the command line interface, ready to carry out args. It knows the verb that args name and no other, unless they are
// about all of them: the flags of all verbs are a tenth of the memory that a cached build needs.
func (a *app) command(args []string) *cobra.Command {
	root := a.rootCommand()
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	args = withVerb(root.PersistentFlags(), args)
	if own := args[countOptions(root.PersistentFlags(), args):]; len(own) > 0 && isVerb(own[0]) {
		a.addVerbs(root, func(name string) bool { return name == own[0] })
		root.CompletionOptions.DisableDefaultCmd = true
	} else {
		a.addVerbs(root, isVerb)
		addCompletion(root)
		args = withVerbToComplete(root, args)
	}
	root.SetArgs(args)
	return root
}

// addVerbs adds those verbs to root that it lacks.
func (a *app) addVerbs(root *cobra.Command, wanted func(name string) bool) {
	has := map[string]bool{}
	for _, c := range root.Commands() {
		has[c.Name()] = true
	}
	for _, v := range verbs() {
		if wanted(v.name) && !has[v.name] {
			root.AddCommand(v.command(a))
		}
	}
}

// withVerb returns args with the main verb in front, unless the first of them that is no option of all verbs is the name
// of a verb. A folder that is called like a verb is written "./run".
func withVerb(all *pflag.FlagSet, args []string) []string {
	if own := args[countOptions(all, args):]; len(own) > 0 {
		switch first := own[0]; {
		case first != mainVerb && isVerb(first), first == "help", first == "completion",
			first == cobra.ShellCompRequestCmd, first == cobra.ShellCompNoDescRequestCmd,
			len(own) == 1 && (first == "--help" || first == "-h" || first == "--version"):
			return args
		}
	}
	return append([]string{mainVerb}, args...)
}

// countOptions returns how many of args, from the first one on, are options of flags and their values.
func countOptions(flags *pflag.FlagSet, args []string) int {
	n := 0
	for n < len(args) {
		name, long := strings.CutPrefix(args[n], "--")
		name, _, hasValue := strings.Cut(name, "=")
		f := flags.Lookup(name)
		if !long || f == nil {
			break
		}
		n++
		if !hasValue && f.NoOptDefVal == "" {
			n++
		}
	}
	return min(n, len(args))
}

// rootCommand returns the program without its verbs.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "build [OPTIONS] PATH|URL|-",
		Short: "Build an OCI image from a Dockerfile, without a daemon and without root",
		Long: `build turns a Dockerfile into an OCI image, without a daemon and without root.

  build -t app:1 .                                 keep the image under a tag
  build -t app:1 -o type=docker,dest=app.tar .     write an archive for docker load
  build -t registry.example/app:1 --push .         push it to a registry
  build run app:1                                  run it`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetVersionTemplate("build {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.root, "root", "", "`FOLDER` of the store (default $BUILD_ROOT, else $XDG_DATA_HOME/build, for root /var/lib/build)")
	root.PersistentFlags().StringVar(&a.hosts, "registry-config", os.Getenv("BUILD_REGISTRY_CONFIG"), "`FILE` that says how registries are reached: mirrors, plain HTTP, certificates (default $BUILD_REGISTRY_CONFIG, else registries.toml in ~/.config/build or /etc/build)")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpFunc(a.help(root))
	root.SetHelpCommand(helpCommand())
	return root
}

// helpCommand returns the verb that shows help. cobra's own ends well when it is asked for what is not there.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "Show the options, or those of a verb",
		RunE: func(c *cobra.Command, args []string) error {
			about, _, err := c.Root().Find(args)
			if err != nil {
				hint := `"build help" lists them`
				if near := nearVerb(args[0]); near != "" {
					hint = fmt.Sprintf(`did you mean "build help %s"?`, near)
				}
				return usagef(hint, "%s: no such verb", args[0])
			}
			return about.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			for _, verb := range c.Root().Commands() {
				if len(args) == 0 && verb.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(verb.Name(), verb.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp // shells leave out what begins otherwise
		},
	}
}

// addCompletion adds cobra's verb that makes completions. Of itself it ends well when it is asked for a shell that it does not know.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	c.Args = nil
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return usagef("there are bash, fish, powershell and zsh", "completion %s: no such shell", args[0])
	}
}

// elsewhere are options of docker and podman that are not here, and what to do in their place.
var elsewhere = map[string]string{
	"load":       "the image is kept in the store, for build run and FROM; for docker: build -t NAME -o type=docker,dest=- PATH | docker load",
	"cache-from": "what the store holds is reused by itself; caches elsewhere are not read",
	"cache-to":   "what the store holds is reused by itself; caches elsewhere are not written",
	"attest":     "no attestations are made; leave it out",
	"builder":    "there is no builder to choose: this command builds",
	"squash":     "layers are kept; -o type=tar or type=local gives the files as one",
	"compress":   "nothing is sent anywhere; leave it out",
	"rm":         "no containers are left behind; leave it out",
	"force-rm":   "no containers are left behind; leave it out",
	"layers":     "layers are always kept; --no-cache runs every step",
}

// flagError is the error of a command line with an option that is not known, or has no such value.
func flagError(c *cobra.Command, err error) error {
	hint := fmt.Sprintf("%q lists the options", strings.Replace(c.CommandPath(), mainVerb+" "+mainVerb, mainVerb, 1)+" --help")
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		name := unknown.GetSpecifiedName()
		if says := elsewhere[name]; says != "" && c.Name() == mainVerb {
			hint = says
		} else if len(name) > 1 {
			err = suggest.WrapError(err, name, names, true)
		}
	}
	return &usageError{err, hint}
}

// help returns the help of all commands. The main verb is not for people to write, so its options
// are part of the help of the program.
func (a *app) help(root *cobra.Command) func(*cobra.Command, []string) {
	plain := root.HelpFunc()
	return func(c *cobra.Command, args []string) {
		if c != root && c.Name() != mainVerb {
			plain(c, args)
			return
		}
		a.addVerbs(root, isVerb)
		root.CompletionOptions.DisableDefaultCmd = false
		root.InitDefaultCompletionCmd()
		main, _, _ := root.Find([]string{mainVerb}) // it is there
		out := root.OutOrStdout()
		fmt.Fprintf(out, "%s\n\nUsage:\n  %s\n  build VERB ...\n\nVerbs:\n", root.Long, root.Use)
		for _, verb := range root.Commands() {
			if verb != main {
				fmt.Fprintf(out, "  %-11s %s\n", verb.Name(), verb.Short)
			}
		}
		fmt.Fprintf(out, "\nOptions of a build:\n%s\nOptions of all:\n%s", main.LocalFlags().FlagUsages(), root.PersistentFlags().FlagUsages())
	}
}
