package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/executor/sandbox"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/userns"
)

// A verdict says whether a mode works on this host.
type verdict struct {
	Mode    string `json:"mode"`
	Works   bool   `json:"works"`
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// A choice is how steps are isolated in this run of the command. The process inside a user namespace
// gets it from the one that made the namespace.
type choice struct {
	Mode string `json:"mode"`
	Host string `json:"host"` // names the facts that it was made on
	// Warning says what is lost when a mode does not work that should.
	Warning string `json:"warning,omitempty"`

	Root     sandbox.RootKind `json:"-"`
	NoLayers string           `json:"-"` // why Root is not an overlay
}

// choiceVariable hands a choice on.
const choiceVariable = "_BUILD_ISOLATION"

// autoIsolation is the value of --isolation that leaves the choice to us.
const autoIsolation = "auto"

func (a *app) isolationFlag(f *pflag.FlagSet) {
	f.StringVar(&a.isolation, "isolation", envOr("BUILD_ISOLATION", autoIsolation), "the `MODE` in which steps are isolated: auto, root, subids, single or chroot (see build doctor)")
}

// enter runs this command line again in a user namespace, when that is how steps are isolated and this process is not in
// one. It returns only when the command is to go on here.
func (a *app) enter(ctx context.Context) error {
	if err := a.open(); err != nil {
		return err
	}
	if _, inside := userns.Inside(); inside {
		if err := json.Unmarshal([]byte(os.Getenv(choiceVariable)), &a.choice); err != nil {
			return fmt.Errorf("$%s: %w", choiceVariable, err)
		}
		os.Unsetenv(choiceVariable)
		a.executor.OwnNamespace = true
		return a.useRoot(ctx)
	}
	host := userns.Gather()
	err := a.enterChosen(ctx, host)
	var failed *userns.HostError
	if a.isolation == autoIsolation && errors.As(err, &failed) {
		// What was found out once is not true any more.
		if os.Remove(a.disk.Path(lookFile(hostKey(host)))) == nil {
			return a.enterChosen(ctx, host)
		}
	}
	return err
}

// enterChosen enters the isolation that is chosen for host.
func (a *app) enterChosen(ctx context.Context, host userns.Facts) error {
	c, err := a.choose(ctx, host)
	if err != nil {
		return err
	}
	a.choice = *c
	mode, _ := userns.ParseMode(c.Mode)
	if mode == userns.Root || mode == userns.Chroot {
		return a.useRoot(ctx)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	os.Setenv(choiceVariable, string(b))
	os.Setenv("BUILD_ROOT", a.disk.Root()) // what it is by default depends on who asks
	// Enter passes signals on by itself: a SIGTERM after them, for a context that the same signal has ended, would
	// count as the second one there.
	code, err := userns.Enter(context.WithoutCancel(ctx), mode)
	if err != nil {
		return err
	}
	return statusError(code)
}

// hostKey names facts, together with the program that will judge them.
func hostKey(f userns.Facts) string {
	b, _ := json.Marshal(f) // strings and numbers
	h := digest.NewHasher("host/v1")
	h.String("facts", string(b))
	h.String("program", version())
	return h.Sum().Hex()[:16]
}

func lookFile(host string) string { return "host/" + host + ".json" }

// choose returns how steps are isolated: as --isolation says, or the best way that works.
func (a *app) choose(ctx context.Context, host userns.Facts) (*choice, error) {
	c := &choice{Host: hostKey(host), Mode: a.isolation}
	if a.isolation != autoIsolation {
		mode, err := parseIsolation(a.isolation)
		if err != nil {
			return nil, err
		}
		return c, userns.Check(mode)
	}
	seen, err := a.look(ctx, host)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(seen.Modes, func(v verdict) bool { return v.Works })
	if i < 0 {
		return nil, nothingWorks(seen)
	}
	c.Mode = seen.Modes[i].Mode
	if subids := seen.of(userns.SubIDs); c.Mode == userns.SingleID.String() && userns.Check(userns.SubIDs) == nil {
		c.Warning = fmt.Sprintf("isolation is single, not subids: %s (%s; %s)", lost[c.Mode], subids.Problem, subids.Hint)
	}
	if c.Mode == userns.Chroot.String() {
		c.Warning = "isolation is chroot: " + lost[c.Mode] + ` ("build doctor" says how to climb)`
	}
	return c, nil
}

// parseIsolation reads --isolation; auto is no mode.
func parseIsolation(text string) (userns.Mode, error) {
	mode, ok := userns.ParseMode(text)
	if !ok && text != autoIsolation {
		return 0, usagef("it is auto, root, subids, single or chroot", "--isolation %s: no such isolation", text)
	}
	return mode, nil
}

// nothingWorks is the error of a host where no mode does. It is about the mode that needs least of this user.
func nothingWorks(seen *look) error {
	v := seen.of(userns.SingleID)
	more := `"build doctor" shows all that was tried`
	if v.Hint != "" {
		more = v.Hint + "; " + more
	}
	what, cause, ok := strings.Cut(v.Problem, ": ")
	if !ok {
		what, cause = "no isolation works here", v.Problem
	}
	return &userns.HostError{What: what, Cause: errors.New(cause), Hint: more}
}

// A look is what was found out about a host. The store keeps it, under a name made of the facts: a host
// that has changed is looked at again.
type look struct {
	Facts userns.Facts `json:"facts"`
	Modes []verdict    `json:"modes"`
}

func (l *look) of(m userns.Mode) verdict {
	i := slices.IndexFunc(l.Modes, func(v verdict) bool { return v.Mode == m.String() })
	if i < 0 {
		return verdict{}
	}
	return l.Modes[i]
}

// look returns what is known of the modes on this host; what is not is tried.
func (a *app) look(ctx context.Context, facts userns.Facts) (*look, error) {
	name := lookFile(hostKey(facts))
	if l, err := a.readLook(name); err == nil {
		return l, nil
	}
	l := &look{Facts: facts}
	for _, m := range userns.Modes() {
		v, err := judge(ctx, m)
		if err != nil {
			return nil, err
		}
		l.Modes = append(l.Modes, v)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return l, a.disk.WriteFile(name, append(b, '\n'))
}

func (a *app) readLook(name string) (*look, error) {
	b, err := a.disk.ReadFile(name)
	if err != nil {
		return nil, err
	}
	l := &look{}
	return l, json.Unmarshal(b, l)
}

// judge tries a mode. An error is one that the host is not the reason of.
func judge(ctx context.Context, m userns.Mode) (verdict, error) {
	v := verdict{Mode: m.String()}
	err := userns.Probe(ctx, m)
	var host *userns.HostError
	switch {
	case err == nil:
		v.Works = true
	case errors.As(err, &host):
		v.Problem, v.Hint = host.Error(), host.Hint
	case ctx.Err() != nil:
		return v, context.Cause(ctx)
	default:
		v.Problem = err.Error()
	}
	return v, nil
}

// useRoot decides how the roots of steps are made, for which it needs the privileges that they will have.
func (a *app) useRoot(ctx context.Context) error {
	if a.choice.Mode == userns.Chroot.String() {
		a.choice.Root = sandbox.RootChroot
		a.executor.Root = sandbox.RootChroot
		return nil
	}
	file := fmt.Sprintf("host/%s-%s.root", a.choice.Host, a.choice.Mode)
	kind, why, ok := "", "", false
	if b, err := a.disk.ReadFile(file); err == nil {
		kind, why, ok = strings.Cut(strings.TrimSuffix(string(b), "\n"), " ")
	}
	if !ok {
		k, reason, err := a.probeRoot(ctx)
		if err != nil {
			return err
		}
		kind, why = string(k), strings.ReplaceAll(reason, "\n", " ")
		if err := a.disk.WriteFile(file, []byte(kind+" "+why+"\n")); err != nil {
			return err
		}
	}
	a.choice.Root, a.choice.NoLayers = sandbox.RootKind(kind), why
	a.executor.Root = a.choice.Root
	return nil
}

// probeRoot returns the best kind of root that works with this store, and why it is not a better one.
func (a *app) probeRoot(ctx context.Context) (kind sandbox.RootKind, why string, err error) {
	for _, kind := range []sandbox.RootKind{sandbox.RootOverlay, sandbox.RootFlat} {
		tmp, e := a.disk.NewTempDir()
		if e != nil {
			return "", "", e
		}
		err = sandbox.Probe(ctx, tmp.Join(), kind)
		if e := tmp.Remove(); err == nil {
			return kind, why, e
		}
		if ctx.Err() != nil {
			return "", "", context.Cause(ctx)
		}
		if why == "" {
			why = err.Error()
		}
	}
	return "", "", &userns.HostError{What: "cannot set up a sandbox", Cause: err, Hint: `"build doctor" shows what this host allows; --isolation=chroot needs no mounts, but root`}
}

// warnIsolation says what this host costs the build that is about to run.
func (a *app) warnIsolation() {
	if a.choice.Warning != "" {
		a.warn(a.choice.Warning)
	}
	if a.choice.Root == sandbox.RootFlat {
		a.warn(lostFlat + " (" + a.choice.NoLayers + "); " + climbFlat)
	}
}
