package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/seed0570efb0/build/cache"
	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/exporter"
	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/internal/userns"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/llb/lower"
	"github.com/seed0570efb0/build/parser"
	"github.com/seed0570efb0/build/solver"
	"github.com/seed0570efb0/build/source"
)

func (a *app) buildCommand() *cobra.Command {
	o := &buildOptions{}
	c := &cobra.Command{
		Use:    mainVerb + " [OPTIONS] PATH|URL|-",
		Short:  "Build an image from a Dockerfile",
		Hidden: true,
		Args:   oneContext,
		RunE:   func(c *cobra.Command, args []string) error { return a.build(c.Context(), o, args[0]) },
	}
	o.flags(c.Flags())
	a.isolationFlag(c.Flags())
	a.completeBuild(c, o)
	return c
}

func oneContext(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		hint := "the context is often the current folder: build -t NAME ."
		if len(args) > 0 {
			hint = cmp.Or(meantVerb(args[0]), hint)
		}
		return usagef(hint, "one PATH, URL or - is needed, %d are given", len(args))
	}
	return nil
}

// A plan is all that is known of a build before anything runs.
type plan struct {
	*buildOptions
	file      *parser.File
	context   string      // the folder, or where the context lies else
	kind      contextKind // which of these
	main      *llb.Vertex // the context, when it is not a folder
	stdin     *cache.TempDir
	ignore    []string
	platforms []ocispec.Platform
	implied   bool // nobody asked for a platform
	indexed   bool // an index is made, even over one image
	args      map[string]string
	labels    map[string]string
	hostNet   bool // steps may use the network of the host
	granted   deviceGrant
	insecure  bool // steps may do without their sandbox's protection
	rights    llb.Security
	hosts     []llb.Host
	epoch     *time.Time
	outputs   []exporter.Output
	secrets   map[string]source.Secret
	agents    map[string]func(net.Conn)
	locals    []*source.Local
	// cacheLimit is how many bytes the store may take; 0 is no limit. enforce, when not nil, keeps it after a step.
	cacheLimit int64
	enforce    func(context.Context)
	lowered    []*lower.Result // one for each platform
	asked      *solver.Solver  // which has told whether the build is known, and is to solve it then
	verified   *verifier       // when what is reused runs again
	call       call
}

// build carries out a build.
func (a *app) build(ctx context.Context, o *buildOptions, path string) error {
	p, err := a.plan(o, path)
	var wrong *parser.Error
	if p != nil && errors.As(err, &wrong) && p.checks() {
		return a.tellCheck(p.call, wrong.File, nil, err)
	}
	if err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	defer a.closeContext(p)
	if p.call.run != nil {
		return a.answer(ctx, p)
	}
	return a.carryOut(ctx, p)
}

// answer does what was asked for in place of a build.
func (a *app) answer(ctx context.Context, p *plan) error {
	done, err := a.show("quiet") // what is fetched for the answer is no part of it
	if err != nil {
		return err
	}
	defer done()
	if err := a.loadContext(ctx, p); err != nil {
		return err
	}
	return p.call.run(a, ctx, p, p.call)
}

// carryOut prepares the build, runs it, and writes what it leaves beside its outputs.
func (a *app) carryOut(ctx context.Context, p *plan) error {
	a.useSecrets(p)
	defer a.executor.Close()
	mode := p.progress
	if p.quiet {
		mode = "quiet"
	}
	done, err := a.show(mode)
	if err != nil {
		return err
	}
	defer done()
	if err := a.prepare(ctx, p); err != nil {
		return err
	}
	results, err := a.solve(ctx, p)
	if err != nil {
		return err
	}
	if p.verified != nil {
		err = p.verified.tell()
	}
	done()
	return errors.Join(a.records(ctx, p, results), err)
}

// prepare loads the context, makes the graph, enters what the steps need and checks that they may have it.
func (a *app) prepare(ctx context.Context, p *plan) error {
	if err := a.loadContext(ctx, p); err != nil {
		return err
	}
	if err := a.lower(ctx, p); err != nil {
		a.warnAbout(p, err)
		return err
	}
	a.executor.Epoch = p.lowered[0].Epoch
	a.record(p)
	if err := a.enterFor(ctx, p); err != nil {
		return err
	}
	a.warnAbout(p, nil) // now, that they come once
	a.warnIsolation()
	if err := a.checkSecurity(p.rights); err != nil {
		return err
	}
	return a.limit(&p.limits)
}

// solve makes the outputs, within the limit of the store, and records how it went.
func (a *app) solve(ctx context.Context, p *plan) (results []*exporter.Result, err error) {
	_ = a.disk.CleanTemp()
	var end func(context.Context)
	p.enforce, end = a.limitStore(p)
	err = a.retryDamaged(func() (err error) {
		results, err = a.produce(ctx, p)
		return err
	})
	a.endRecord(ctx, err)
	for _, x := range p.locals {
		if e := x.Save(); e != nil { // the next build hashes the files again
			a.warn("the digests of the context are not remembered: " + e.Error())
		}
	}
	end(ctx)
	return results, err
}

// plan checks the command line and reads the Dockerfile, if it is a file here.
func (a *app) plan(o *buildOptions, path string) (*plan, error) {
	p := &plan{buildOptions: o, context: path}
	if _, err := parseIsolation(a.isolation); err != nil {
		return nil, err
	}
	if _, _, err := o.limits.limits(); err != nil {
		return nil, err
	}
	for _, f := range []func(*plan) error{planContext, planCall, planPlatforms, planFlags, planCacheLimit, planSecrets, planOutputs, planRecords, a.readDockerfile, planIgnore} {
		if err := f(p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// lower turns the Dockerfile into a graph for each platform, for which it finds out what base images are.
func (a *app) lower(ctx context.Context, p *plan) error {
	opt, err := a.lowerOptions(p)
	if err != nil {
		return err
	}
	var lowered []*lower.Result
	for _, opt.Platform = range p.platforms {
		l, err := lower.Lower(ctx, p.file, opt)
		if err != nil {
			return err
		}
		lowered = append(lowered, l)
	}
	p.lowered = lowered
	return nil
}

// roots returns the last steps of the build, one for each platform.
func (p *plan) roots() []*llb.Vertex {
	var out []*llb.Vertex
	for _, l := range p.lowered {
		out = append(out, l.Root)
	}
	return out
}

// lowerOptions returns what the command line says about the meaning of the Dockerfile, and makes the folders it
// names known to the executor.
func (a *app) lowerOptions(p *plan) (lower.Options, error) {
	a.executor.Devices = p.devices.registry()
	opt := lower.Options{
		Target: p.target, Platform: p.platforms[0], PlatformImplied: p.implied, ShowPlatform: p.several(), BuildPlatform: platforms.Normalize(platforms.DefaultSpec()),
		BuildArgs: p.args, Labels: p.labels, Hosts: p.hosts, Epoch: p.epoch, Network: llb.Network(p.network), AllowHostNetwork: p.hostNet, AllowInsecure: p.insecure, Security: p.rights,
		Hostname: p.args["BUILDKIT_SANDBOX_HOSTNAME"],
		NoCache:  p.noCache, NoCacheFilter: p.noCacheFilter, Ignore: p.ignore,
		Resolve: func(ctx context.Context, ref string, platform ocispec.Platform) (*lower.Image, error) {
			return a.resolve(ctx, ref, platform, p.repull())
		},
		Device:     func(d llb.Device) (llb.Device, error) { return p.granted.ask(a.executor.Devices, d) },
		SourceTime: func(ctx context.Context, v *llb.Vertex) (*time.Time, error) { return a.sourceTime(ctx, p, v) },
	}
	var err error
	if opt.NamedContexts, err = a.namedContexts(p); err != nil {
		return opt, err
	}
	if opt.Context = p.main; p.main == nil {
		return opt, a.local(p, "context", p.context, p.ignore)
	}
	return opt, nil
}

// repull reports whether registries are asked again. Inside of a user namespace they are not: the process outside has done it.
func (p *plan) repull() bool {
	_, inside := userns.Inside()
	return p.pull && !inside
}

// enterFor goes on in a user namespace if the build needs one: when a step will run a process, or files of a step's
// layer are read, whose owners only exist there. A build that is all known needs none, nor anything to be known of this host.
func (a *app) enterFor(ctx context.Context, p *plan) error {
	if len(p.outputs) == 0 && !a.verifies {
		ok, err := a.known(ctx, p)
		if err != nil {
			a.endRecord(ctx, err)
		}
		if ok || err != nil {
			return err
		}
	}
	err := a.enter(ctx)
	var host *userns.HostError
	seen := map[digest.Digest]bool{}
	if errors.As(err, &host) && !slices.ContainsFunc(p.roots(), func(v *llb.Vertex) bool { return runs(v, seen) }) {
		return nil // only files are placed: that works everywhere
	}
	return err
}

// known reports whether all of the build is remembered.
func (a *app) known(ctx context.Context, p *plan) (bool, error) {
	p.asked = a.solver(p)
	p.asked.Executor = a.recorder
	for _, v := range p.roots() {
		if _, ok, err := p.asked.Known(ctx, v); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// runs reports whether a process is part of the graph.
func runs(v *llb.Vertex, seen map[digest.Digest]bool) bool {
	if seen[v.ID()] {
		return false
	}
	seen[v.ID()] = true
	if _, ok := v.Op().(*llb.Exec); ok {
		return true
	}
	for _, in := range v.Inputs() {
		if runs(in, seen) {
			return true
		}
	}
	return false
}

func (a *app) solver(p *plan) *solver.Solver {
	return &solver.Solver{
		Executor: p.limited(a.executor),
		Memory:   executor.Memory{Store: a.disk, Layers: a.layers.Look()},
		Observer: a.display,
		Jobs:     p.jobs,
	}
}
