package llb

import (
	"fmt"
	"io"
	"strings"
)

// Dump writes the graph below root for people and golden tests: each vertex
// once, after its inputs, with all that its ID and its Meta are made of. The
// text is the same for the same graph.
func Dump(w io.Writer, root *Vertex) error {
	d := dumper{numbers: map[*Vertex]int{}}
	d.vertex(root)
	_, err := io.WriteString(w, d.text.String())
	return err
}

type dumper struct {
	text    strings.Builder
	numbers map[*Vertex]int
}

func (d *dumper) vertex(v *Vertex) {
	if d.numbers[v] > 0 {
		return
	}
	for _, in := range v.inputs {
		d.vertex(in)
	}
	d.numbers[v] = len(d.numbers) + 1
	fmt.Fprintf(&d.text, "%d %s", d.numbers[v], v.op.domain())
	for _, in := range v.inputs {
		fmt.Fprintf(&d.text, " <%d", d.numbers[in])
	}
	d.text.WriteByte('\n')
	d.field("label", v.meta.Label)
	if !v.meta.Pos.IsZero() {
		d.line("at %s-%d", v.meta.Pos, v.meta.Pos.End)
	}
	if v.meta.NoCache {
		d.line("no cache")
	}
	d.op(v.op)
}

func (d *dumper) op(op Op) {
	switch op := op.(type) {
	case *Image:
		d.field("ref", op.Ref)
		for _, l := range op.Layers {
			d.line("layer %s", l)
		}
	case *Local:
		d.field("name", op.Name)
		d.list("exclude", op.Exclude)
	case *HTTP:
		d.field("url", op.URL)
		d.field("filename", op.Filename)
		if !op.Checksum.IsZero() {
			d.line("checksum %s", op.Checksum)
		}
	case *Git:
		d.git(op)
	case *Exec:
		d.list("args", op.Args)
		d.list("env", op.Env)
		d.field("cwd", op.Cwd)
		d.field("user", op.User)
		d.field("network", string(op.Network))
		d.field("hostname", op.Hostname)
		for _, h := range op.Hosts {
			d.line("host %s %s", h.Name, h.IP)
		}
		d.security(op.Security)
		d.list("proxy", op.Proxy)
		for i := range op.Mounts {
			d.mount(&op.Mounts[i])
		}
		for _, dev := range op.Devices {
			d.line("device %s", dev.Name)
			if dev.Required {
				d.line("  required")
			}
		}
	case *File:
		for _, a := range op.Actions {
			d.action(a)
		}
	}
}

func (d *dumper) git(op *Git) {
	d.field("remote", op.Remote)
	d.field("ref", op.Ref)
	d.field("subdir", op.Subdir)
	d.field("checksum", op.Checksum)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"keep .git", op.KeepGitDir}, {"skip submodules", op.SkipSubmodules},
		{"fetch by commit", op.FetchByCommit}, {"checkout time", op.CheckoutTime},
	} {
		if f.set {
			d.line("%s", f.name)
		}
	}
}

func (d *dumper) action(a Action) {
	switch a := a.(type) {
	case *Mkdir:
		d.line("mkdir %s %04o%s", a.Path, a.Mode, ownerText(a.Owner))
		d.time(a.Time)
	case *Mkfile:
		d.line("mkfile %s %04o %q", a.Path, a.Mode, a.Data)
		d.time(a.Time)
	case *Copy:
		verb := "copy"
		if a.Unpack {
			verb = "unpack"
		}
		d.line("%s from input %d to %s%s", verb, a.From, a.Dest, ownerText(a.Owner))
		for _, s := range a.Sources {
			kind := "path"
			if s.Wildcard {
				kind = "glob"
			}
			d.line("  %s %s", kind, s.Path)
			d.field("    only", s.Include)
			if s.Required {
				d.line("    required")
			}
		}
		d.list("  exclude", a.Exclude)
		d.field("  mode", a.Mode)
	}
}

func (d *dumper) time(t *int64) {
	if t != nil {
		d.line("  time %d", *t)
	}
}

func (d *dumper) security(s Security) {
	for _, right := range []struct {
		name  string
		given bool
	}{{"insecure", s.Insecure}, {"unconfined", s.Unconfined}, {"new privileges", s.NewPrivileges}} {
		if right.given {
			d.line("%s", right.name)
		}
	}
}

func (d *dumper) mount(m *Mount) {
	d.line("mount %s %s", m.Type, m.Target)
	if m.From > 0 {
		d.line("  from input %d", m.From)
	}
	d.field("  source", m.Source)
	if m.ReadOnly {
		d.line("  read-only")
	}
	d.field("  id", m.ID)
	d.field("  sharing", string(m.Sharing))
	if m.Size > 0 {
		d.line("  size %d", m.Size)
	}
	if m.Required {
		d.line("  required")
	}
	d.field("  variable", m.Env)
	if a := m.Access; a != nil {
		d.line("  access %04o %d:%d", a.Mode, a.UID, a.GID)
	}
}

func ownerText(o *Owner) string {
	if o == nil {
		return ""
	}
	return " for " + o.Text
}

func (d *dumper) line(format string, args ...any) { fmt.Fprintf(&d.text, "    "+format+"\n", args...) }

// field writes a value unless it is empty.
func (d *dumper) field(name, value string) {
	if value != "" {
		d.line("%s %s", name, value)
	}
}

func (d *dumper) list(name string, values []string) {
	for _, v := range values {
		d.line("%s %q", name, v)
	}
}
