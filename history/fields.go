package history

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
)

// A Field is a part of an operation under the name that people know it by. Two fields of one step do not have the same name.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	// Hidden is set for a value that must not be shown: it is a digest.
	Hidden bool `json:"hidden,omitempty"`
}

// fields collects the fields of one operation.
type fields struct {
	list  []Field
	names map[string]int
}

func (f *fields) add(name, value string) { f.put(Field{Name: name, Value: value}) }

// put adds a field; the second one of a name is numbered.
func (f *fields) put(x Field) {
	if f.names == nil {
		f.names = map[string]int{}
	}
	f.names[x.Name]++
	if n := f.names[x.Name]; n > 1 {
		x.Name += " " + strconv.Itoa(n)
	}
	f.list = append(f.list, x)
}

func (f *fields) set(name string, value bool) {
	if value {
		f.add(name, "yes")
	}
}

func (f *fields) hide(name, value string) {
	f.put(Field{Name: name, Value: digest.Of([]byte(value)).Hex()[:16], Hidden: true})
}

// kindOf returns the kind of an operation.
func kindOf(op llb.Op) Kind {
	switch op.(type) {
	case *llb.Image:
		return KindImage
	case *llb.Local:
		return KindLocal
	case *llb.HTTP:
		return KindHTTP
	case *llb.Git:
		return KindGit
	case *llb.Exec:
		return KindExec
	case *llb.File:
		return KindFile
	case *llb.Merge:
		return KindMerge
	}
	panic(fmt.Sprintf("history: operation %T", op))
}

// describe returns an operation in words.
func describe(op llb.Op, argument Namer) []Field {
	f := &fields{}
	switch op := op.(type) {
	case *llb.Image:
		f.image(op)
	case *llb.Local:
		f.add("name", op.Name)
		for _, p := range op.Exclude {
			f.add("ignore pattern", p)
		}
	case *llb.HTTP:
		f.add("URL", op.Name())
		f.hide("whole URL", op.URL) // with what of it is not shown
		f.add("name", op.Filename)
		f.add("--checksum", op.Checksum.String())
	case *llb.Git:
		f.git(op)
	case *llb.Exec:
		f.exec(op, argument)
	case *llb.File:
		for _, a := range op.Actions {
			f.action(a)
		}
	}
	return f.list
}

func (f *fields) image(op *llb.Image) {
	if _, d, ok := strings.Cut(op.Ref, "@"); ok {
		f.add("digest", d)
	}
	h := digest.NewHasher("history.layers")
	for _, l := range op.Layers {
		h.Digest("layer", l)
	}
	f.add("layers", h.Sum().String())
}

func (f *fields) git(op *llb.Git) {
	f.add("repository", op.Name())
	f.hide("whole address", op.Remote)
	f.add("ref", op.Ref)
	f.add("folder", op.Subdir)
	f.add("--checksum", op.Checksum)
	f.set("--keep-git-dir", op.KeepGitDir)
	f.set("without submodules", op.SkipSubmodules)
	f.set("fetch by commit", op.FetchByCommit)
	f.set("time of the checkout", op.CheckoutTime)
}

// order is the name of a field that only counts when no other one is different.
const order = "order of the environment"

func (f *fields) exec(op *llb.Exec, argument Namer) {
	if n := len(op.Args); n > 1 && op.Args[n-2] == "-c" { // the shell form
		f.add("command", op.Args[n-1])
		f.add("shell", words(op.Args[:n-1]))
	} else {
		f.add("command", words(op.Args))
	}
	f.environment(op.Env, argument)
	f.add("WORKDIR", op.Cwd)
	f.add("USER", op.User)
	f.add("network", string(op.Network))
	f.set("--security=insecure", op.Security.Insecure)
	f.set("seccomp=unconfined", op.Security.Unconfined)
	f.set("no-new-privileges=false", op.Security.NewPrivileges)
	f.add("hostname", op.Hostname)
	for _, h := range op.Hosts {
		f.add("host "+h.Name, h.IP)
	}
	for _, d := range op.Devices {
		f.set("--device="+d.Name, true)
		f.set("--device="+d.Name+",required", d.Required)
	}
	for i := range op.Mounts {
		m := &op.Mounts[i]
		f.add("mount "+strings.TrimSpace(string(m.Type)+" "+m.Target), mountText(m))
	}
}

// secretWords are in the names of variables whose values are not for a log.
var secretWords = []string{"apikey", "auth", "credential", "credentials", "key", "pass", "password", "pword", "passwd", "secret", "token"}

func secret(name string) bool {
	return slices.ContainsFunc(strings.Split(strings.ToLower(name), "_"), func(word string) bool { return slices.Contains(secretWords, word) })
}

func (f *fields) environment(env []string, argument Namer) {
	var names []string
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		names = append(names, k)
		name := "variable " + k
		if argument(k) {
			name = "argument " + k
		}
		if secret(k) {
			f.hide(name, v)
		} else {
			f.add(name, v)
		}
	}
	f.add(order, strings.Join(names, " "))
}

// words returns a command line as it is shown: words with spaces in quotes.
func words(args []string) string {
	out := make([]string, len(args))
	for i, w := range args {
		if out[i] = w; w == "" || strings.ContainsAny(w, " \t\n\"\\") {
			out[i] = strconv.Quote(w)
		}
	}
	return strings.Join(out, " ")
}

func mountText(m *llb.Mount) string {
	text := strings.TrimPrefix(m.Source, "/")
	add := func(name string, set bool, value any) {
		if set {
			text += fmt.Sprintf(" %s=%v", name, value)
		}
	}
	add("from", m.From > 0, m.From)
	add("readonly", m.ReadOnly, m.ReadOnly)
	add("id", m.ID != "", m.ID)
	add("sharing", m.Sharing != "", m.Sharing)
	add("size", m.Size != 0, m.Size)
	add("required", m.Required, m.Required)
	add("env", m.Env != "", m.Env)
	if a := m.Access; a != nil {
		text += fmt.Sprintf(" mode=%04o uid=%d gid=%d", a.Mode, a.UID, a.GID)
	}
	return strings.TrimSpace(text)
}

func (f *fields) action(a llb.Action) {
	switch a := a.(type) {
	case *llb.Mkdir:
		f.add("folder", fmt.Sprintf("%s %04o%s", a.Path, a.Mode, ownerText(a.Owner)))
		f.time(a.Time)
	case *llb.Mkfile:
		f.add("document", fmt.Sprintf("%s %04o", a.Path, a.Mode))
		f.hide("text of "+a.Path, string(a.Data))
		f.time(a.Time)
	case *llb.Copy:
		f.copy(a)
	}
}

func (f *fields) copy(a *llb.Copy) {
	var sources []string
	for _, s := range a.Sources {
		text := s.Path
		if s.Include != "" {
			text += " only " + strconv.Quote(s.Include)
		}
		if s.Wildcard {
			text += " (pattern)"
		}
		if s.Required {
			text += " (required)"
		}
		sources = append(sources, text)
	}
	f.add("sources", strings.Join(sources, ", "))
	f.add("destination", a.Dest)
	f.add("from input", strconv.Itoa(a.From))
	if a.Owner != nil {
		f.add("--chown", a.Owner.Text)
	}
	if a.Mode != "" {
		f.add("--chmod", a.Mode)
	}
	for _, p := range a.Exclude {
		f.add("--exclude", p)
	}
	f.set("unpacking", a.Unpack)
}

func (f *fields) time(t *int64) {
	if t != nil {
		f.add("SOURCE_DATE_EPOCH", strconv.FormatInt(*t, 10))
	}
}

func ownerText(o *llb.Owner) string {
	if o == nil {
		return ""
	}
	return " " + o.Text
}
