package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/testkit"
	"github.com/seed0570efb0/build/internal/userns"
)

// faultsVariable says how many commands TestFaults disturbs.
const faultsVariable = "BUILD_TEST_FAULTS"

// insideVariable says that TestFaults is root of a user namespace only.
const insideVariable = "BUILD_TEST_INSIDE"

// TestFaults has system calls of builds, pulls, exports and prunes fail, at any place. Whatever fails is told in a line that says
// what it was, or does not matter; the next build is right to the byte, what has a name is whole, nothing in the store is
// damaged, and nothing is left. The builds are those of root and of an ordinary user with subordinate ids. With one id a sandbox
// listens to calls itself, and the kernel lets only one listen.
func TestFaults(t *testing.T) {
	if os.Geteuid() != 0 {
		faultsInside(t)
		return
	}
	rounds := environmentNumber(t, faultsVariable, 8)
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		newDisturbed(t, newVictim).rounds(rounds)
	})
	if os.Getenv(insideVariable) != "" {
		return
	}
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		u := testkit.OrdinaryUser(t)
		d := newDisturbed(t, func(t *testing.T, random *rand.Rand) *victim { return newVictimOf(t, random, u) })
		d.rounds((rounds + 1) / 2)
	})
}

// faultsInside runs TestFaults as root of a user namespace: who installs a filter without being root gives up newuidmap.
func faultsInside(t *testing.T) {
	if err := userns.Check(userns.SubIDs); err != nil {
		t.Skip(err)
	}
	args := []string{"--user", "--mount", "--map-root-user", "--map-auto", os.Args[0], "-test.run=^TestFaults$", "-test.v"}
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
}

// newDisturbed returns a victim with what the rounds want to find.
func newDisturbed(t *testing.T, victim func(*testing.T, *rand.Rand) *victim) *disturbed {
	seed := environmentNumber(t, seedVariable, rand.IntN(1<<30))
	t.Logf("%s=%d", seedVariable, seed)
	d := &disturbed{victim: victim(t, rand.New(rand.NewPCG(uint64(seed), 0))), places: map[string]int{}}
	d.env = append(d.env, "SOURCE_DATE_EPOCH=1700000000")
	d.must("build", "-q", "-t", "kept", "--build-arg", "N=kept", d.context)
	d.must("build", "-q", "-t", "app", "--build-arg", "N=app", d.context)
	d.must(d.commands()["export"]...)
	d.want = d.archive()
	return d
}

// rounds disturbs commands until one leaves something wrong.
func (d *disturbed) rounds(n int) {
	hits := 0
	for range n {
		if d.round() {
			hits++
		}
		if d.t.Failed() {
			d.t.FailNow()
		}
	}
	d.t.Logf("%d of %d commands met a fault", hits, n)
	if hits == 0 {
		d.t.Error("no command met a fault")
	}
}

// A disturbed victim is a store on a disk that fails.
type disturbed struct {
	*victim
	want   digest.Digest  // of the archive that the context gives
	places map[string]int // by command and fault: how many calls can fail
}

// commands are those that meet faults, by name.
func (d *disturbed) commands() map[string][]string {
	build := func(args ...string) []string {
		return append(append([]string{"build", "-q", "--build-arg", "N=app"}, args...), d.context)
	}
	return map[string][]string{
		"build":  build("-t", "app"),
		"export": build("-o", "type=oci,rewrite-timestamp=true,dest="+d.in("out.tar")),
		"files":  build("-o", d.in("out")),
		"push":   build("--push", "-t", d.registry+"/pushed"),
		"limit":  build("--cache-limit", "6m"),
		"prune":  {"build", "prune", "-f", "-a"},
		"fsck":   {"build", "fsck", "--repair"},
		"rmi":    {"build", "rmi", "app"},
		"run":    {"build", "run", "app"},
		"save":   {"build", "save", "-o", d.in("saved.tar"), "app"},
		"du":     {"build", "du"},
	}
}

func (d *disturbed) in(name string) string { return filepath.Join(d.dir, name) }

// archive is the digest of what an export has written.
func (d *disturbed) archive() digest.Digest {
	b, err := os.ReadFile(d.in("out.tar"))
	if err != nil {
		d.t.Fatal(err)
	}
	return digest.Of(b)
}

// round disturbs one command and looks at what is left. It reports whether there was anything to disturb.
func (d *disturbed) round() bool {
	commands := d.commands()
	names := []string{"build", "build", "export", "export", "push", "limit", "files", "prune", "fsck", "rmi", "run", "save", "du"}
	name, f, cold := names[d.random.IntN(len(names))], faults[d.random.IntN(len(faults))], d.random.IntN(3) > 0
	if cold && slices.Contains(commands[name], d.context) {
		d.must("build", "rmi", "-f", "app", d.registry+"/pushed")
		d.must("build", "prune", "-f", "-a")
	} else {
		d.must("build", "-q", "-t", "app", "--build-arg", "N=app", d.context)
	}
	key := fmt.Sprint(name, f, cold)
	if _, known := d.places[key]; !known {
		in := &injector{fault: f, dir: d.dir, at: -1}
		if out, err := d.disturb(in, commands[name]); err != nil {
			d.t.Fatalf("%s without faults: %v\n%s", name, err, out)
		}
		d.places[key] = in.seen
		return d.round()
	}
	in := &injector{fault: f, dir: d.dir, at: d.random.IntN(max(d.places[key], 1))}
	out, err := d.disturb(in, commands[name])
	when := fmt.Sprintf("%s with %s at call %d of %d, %q", name, f.name, in.at, d.places[key], in.hit)
	d.told(when, f, in.hit != "", out, err)
	d.sound(when)
	if d.t.Failed() {
		d.t.Logf("%s, cold %v: %v\n%s", when, cold, err, out)
	}
	return in.hit != ""
}

// disturb runs a command under an injector and returns all that it prints.
func (d *disturbed) disturb(in *injector, args []string) (string, error) {
	cmd := d.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in.start(d.t, cmd)
	err := cmd.Wait()
	in.wait(d.t)
	return out.String(), err
}

// told checks how a command ended that met a fault.
func (d *disturbed) told(when string, f fault, hit bool, out string, err error) {
	var exit *exec.ExitError
	if err == nil {
		return
	}
	if !errors.As(err, &exit) || !hit || f.errno == 0 {
		d.t.Errorf("%s: %v", when, err)
		return
	}
	if code := exit.ExitCode(); code != exitFailed && code != exitHost && code != exitRun {
		d.t.Errorf("%s: exit status %d", when, code)
	}
	if !strings.Contains(out, f.errno.Error()) || !strings.Contains(out, "build: ") || strings.Contains(out, "goroutine ") {
		d.t.Errorf("%s: it does not say that it was: %v", when, f.errno)
	}
}

// sound checks that the store is, and that the next build is right.
func (d *disturbed) sound(when string) {
	d.nothingLeft(when, false)
	d.must(d.commands()["build"]...)
	d.must(d.commands()["export"]...)
	if got := d.archive(); got != d.want {
		d.t.Errorf("%s: the next archive is %s, want %s", when, got.Short(), d.want.Short())
	}
	for _, image := range []string{"app", "kept"} {
		if got, want := d.must("build", "run", image), image+"\nfile\nb-"+image+"\n"; got != want {
			d.t.Errorf("%s: %s is %q then, want %q", when, image, got, want)
		}
	}
	d.must("build", "fsck")
	d.nothingLeft(when, true)
}
