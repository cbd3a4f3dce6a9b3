package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/userns"
)

// lost says what each mode cannot do that a better one can.
var lost = map[string]string{
	"root":   "",
	"subids": "device files cannot be made",
	"single": "other users and owners are emulated: steps that look at many files take longer, and programs for 32 bits see one user only",
	"chroot": "steps share the host's network, processes and host name, /proc and /sys are empty, each step copies the whole root, and RUN --mount and --network=none are refused",
}

// What is lost without overlayfs, and what to do.
const (
	lostFlat  = "no overlay can be mounted on the store, so each step copies its whole root"
	climbFlat = "name a folder on ext4, xfs, btrfs or tmpfs with --root (in a container: a volume)"
)

// A check is one fact about the host.
type check struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Problem says what the value forbids, and what changes it; "" is well.
	Problem string `json:"problem,omitempty"`
}

// A report is what build doctor found out.
type report struct {
	Isolation string           `json:"isolation"` // "" when none works
	Root      sandbox.RootKind `json:"root"`
	Lost      []string         `json:"lost"`
	Climb     []string         `json:"climb"`
	Modes     []verdict        `json:"modes"`
	Checks    []check          `json:"checks"`
	Store     string           `json:"store"`
}

func (a *app) doctorCommand() *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Show how steps are isolated on this host, what that costs, and how to do better",
		Long: `Show how steps are isolated on this host: which ways work, which one is taken, what is lost with it,
and which command leads to a better one. Everything is tried again; nothing is taken from an earlier look.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.doctor(c.Context(), asJSON) },
	}
	a.isolationFlag(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print all of it as JSON")
	return c
}

// doctor prints its report. In a mode with a user namespace it is written from inside.
func (a *app) doctor(ctx context.Context, asJSON bool) error {
	if err := a.open(); err != nil {
		return err
	}
	if _, inside := userns.Inside(); !inside {
		facts := userns.Gather()
		if err := a.forget(hostKey(facts)); err != nil {
			return err
		}
		if _, err := a.look(ctx, facts); err != nil {
			return err
		}
		a.choice.Host = hostKey(facts)
	}
	err := a.enter(ctx)
	var host *userns.HostError
	if err != nil && !errors.As(err, &host) { // among others, when the process inside has written the report
		return err
	}
	seen, e := a.readLook(lookFile(a.choice.Host))
	if e != nil {
		return e
	}
	if err != nil {
		a.choice.Mode = ""
	}
	r := newReport(seen, &a.choice, a.disk.Root())
	if asJSON {
		return errors.Join(printJSON(a.stdio.out, r), err)
	}
	return errors.Join(r.print(a.stdio.out), err)
}

// forget removes what is known of a host.
func (a *app) forget(host string) error {
	files, err := filepath.Glob(a.disk.Path("host/" + host + "*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func newReport(seen *look, c *choice, store string) *report {
	r := &report{Lost: []string{}, Climb: []string{}, Isolation: c.Mode, Root: c.Root, Modes: seen.Modes, Checks: checks(seen.Facts), Store: store}
	if l := lost[c.Mode]; l != "" {
		r.Lost = append(r.Lost, l)
	}
	if c.Root == sandbox.RootFlat {
		r.Lost = append(r.Lost, lostFlat+" ("+c.NoLayers+")")
		r.Climb = append(r.Climb, climbFlat)
	}
	for _, v := range seen.Modes {
		if v.Mode == c.Mode {
			break
		}
		if v.Hint != "" && !v.Works {
			r.Climb = append(r.Climb, v.Mode+": "+v.Hint)
		}
	}
	return r
}

// print writes r for people.
func (r *report) print(out io.Writer) error {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	if r.Isolation == "" {
		fmt.Fprintf(w, "No isolation works on this host.\n\n")
	} else {
		fmt.Fprintf(w, "isolation\t%s\n", r.Isolation)
		fmt.Fprintf(w, "root\t%s\n", r.Root)
		fmt.Fprintf(w, "store\t%s\n", r.Store)
		for _, l := range r.Lost {
			fmt.Fprintf(w, "lost\t%s\n", l)
		}
	}
	for _, c := range r.Climb {
		fmt.Fprintf(w, "better\t%s\n", c)
	}
	fmt.Fprintf(w, "\nISOLATION\tWORKS\tWHY NOT\n")
	for _, v := range r.Modes {
		works := "no"
		if v.Works {
			works = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.Mode, works, v.Problem)
	}
	fmt.Fprintf(w, "\nCHECK\tVALUE\tPROBLEM\n")
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, cmp.Or(c.Value, "-"), c.Problem)
	}
	w.Flush() // to memory
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// checks judges facts one by one. What is a problem on one host may not matter on the next: the modes were tried.
func checks(f userns.Facts) []check {
	ordinary := f.UID != 0
	when := func(problem bool, text string) string {
		if problem {
			return text
		}
		return ""
	}
	seccomp := map[string]string{"0": "none", "1": "strict", "2": "filter"}[f.Seccomp]
	return []check{
		{"kernel", f.Kernel, ""},
		{"user", fmt.Sprintf("%d:%d", f.UID, f.GID), ""},
		{"capabilities", f.Capabilities, when(!ordinary && !has(f.Capabilities, unix.CAP_SYS_ADMIN), "no CAP_SYS_ADMIN: docker run --cap-add SYS_ADMIN")},
		{"container", f.Container, ""},
		{"user.max_user_namespaces", f.MaxUserNamespaces, when(f.MaxUserNamespaces == "0", "sudo sysctl -w user.max_user_namespaces=15000")},
		{"kernel.unprivileged_userns_clone", f.UnprivilegedClone,
			when(f.UnprivilegedClone == "0" && ordinary, "sudo sysctl -w kernel.unprivileged_userns_clone=1")},
		{"kernel.apparmor_restrict_unprivileged_userns", f.AppArmorRestrict,
			when(f.AppArmorRestrict == "1" && ordinary, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile that grants userns")},
		{"AppArmor profile", f.AppArmor, when(strings.HasPrefix(f.AppArmor, "docker-default"), "may deny mounts: docker run --security-opt apparmor=unconfined")},
		{"seccomp", seccomp, when(f.Seccomp == "2", "may deny namespaces and mounts: docker run --security-opt seccomp=unconfined")},
		{"no_new_privs", f.NoNewPrivs, when(f.NoNewPrivs == "1" && ordinary, "newuidmap has no power: allowPrivilegeEscalation: true")},
		{"newuidmap", f.NewUIDMap, when(f.NewUIDMap == "missing" && ordinary, "sudo apt install uidmap")},
		{"newgidmap", f.NewGIDMap, when(f.NewGIDMap == "missing" && ordinary, "sudo apt install uidmap")},
		{"/etc/subuid", f.SubUIDs, when(f.SubUIDs == "none" && ordinary, "sudo usermod --add-subuids 100000-165535 $USER")},
		{"/etc/subgid", f.SubGIDs, when(f.SubGIDs == "none" && ordinary, "sudo usermod --add-subgids 100000-165535 $USER")},
		{"uid_map", f.UserMap, ""},
		{"mounts over /proc", strings.Join(f.Masked, " "), when(len(f.Masked) > 0, "steps see this /proc, not one of their own: docker run --security-opt systempaths=unconfined")},
	}
}

// has reports whether the hex digits of a capability set hold c.
func has(set string, c uint) bool {
	n, err := strconv.ParseUint(set, 16, 64)
	return err == nil && n&(1<<c) != 0
}
