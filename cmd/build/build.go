package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

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

// buildOptions are the flags of a build, as they were written.
type buildOptions struct {
	file, target, platform, network string
	tags, args, contexts            []string
	labels, hosts, outputs          []string
	secrets, agents                 []string
	noCache, pull, push, quiet      bool
	noCacheFilter, allow            []string
	iidFile, metadataFile, progress string
	jobs                            int64
	limits                          limitOptions
	security                        securityOptions
}

func (a *app) buildCommand() *cobra.Command {
	o := &buildOptions{}
	c := &cobra.Command{
		Use:   mainVerb + " [OPTIONS] PATH",
		Short: "Build an image from a Dockerfile; the verb itself may be left out",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("the context is often the current folder: build -t NAME .", "one PATH is needed, %d are given", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.build(c.Context(), o, args[0]) },
	}
	f := c.Flags()
	f.SortFlags = true
	f.StringVarP(&o.file, "file", "f", "", "the Dockerfile (default PATH/Dockerfile)")
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "name of the image, as NAME[:TAG]; may be repeated")
	f.StringArrayVar(&o.args, "build-arg", nil, "value of an ARG, as KEY=VALUE, or KEY for that of the environment")
	f.StringArrayVar(&o.contexts, "build-context", nil, "a stage or image under another name, as NAME=PATH, NAME=docker-image://REF or NAME=oci-layout://DIR[:TAG]")
	f.StringVar(&o.target, "target", "", "the stage to build (default the last one)")
	f.StringVar(&o.platform, "platform", "", "the platform to build for (default that of this machine)")
	f.StringArrayVar(&o.labels, "label", nil, "label of the image, as KEY=VALUE")
	f.StringArrayVar(&o.hosts, "add-host", nil, "line of /etc/hosts in RUN steps, as NAME:IP; the IP host-gateway is this host")
	f.StringVar(&o.network, "network", "default", "network of RUN steps: default, none or host")
	f.StringSliceVar(&o.allow, "allow", nil, "what steps may ask for beyond their sandbox: network.host, the network of this host, or security.insecure, all else")
	f.StringArrayVar(&o.secrets, "secret", nil, "value for RUN --mount=type=secret, as id=ID,src=FILE or id=ID,env=VARIABLE")
	f.StringArrayVar(&o.agents, "ssh", nil, "SSH agent for RUN --mount=type=ssh, as default, ID=SOCKET or ID=KEY[,KEY]")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step, whatever is known of it")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "run every step of these stages")
	f.BoolVar(&o.pull, "pull", false, "ask the registries again what the tags of base images mean")
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "where the result goes: type=oci|docker|local|tar|registry,dest=PATH; a PATH alone is a folder, - a tar on standard output")
	f.BoolVar(&o.push, "push", false, "push the image to the registries its names say")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the image's ID")
	f.StringVar(&o.iidFile, "iidfile", "", "write the image's ID to this file")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write digests and names to this file, as JSON")
	f.StringVar(&o.progress, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "how to show progress: auto, tty, plain or quiet")
	f.Int64Var(&o.jobs, "jobs", int64(max(4*runtime.NumCPU(), 16)), "how many steps may run at once")
	a.isolationFlag(f)
	o.limits.flags(f)
	o.security.flags(f)
	return c
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

// A plan is all that is known of a build before anything runs.
type plan struct {
	*buildOptions
	file     *parser.File
	context  string // the folder
	ignore   []string
	platform ocispec.Platform
	args     map[string]string
	labels   map[string]string
	hostNet  bool // steps may use the network of the host
	insecure bool // steps may do without their sandbox's protection
	rights   llb.Security
	hosts    []llb.Host
	epoch    *time.Time
	outputs  []exporter.Output
	secrets  map[string]source.Secret
	agents   map[string]func(net.Conn)
	index    []*source.StatIndex
	lowered  *lower.Result
}

// build carries out a build.
func (a *app) build(ctx context.Context, o *buildOptions, path string) error {
	p, err := a.plan(o, path)
	if err != nil {
		return err
	}
	if err := a.open(); err != nil {
		return err
	}
	a.executor.Secrets, a.executor.Agents = p.secret, p.agents
	defer a.executor.Close()
	mode := o.progress
	if o.quiet {
		mode = "quiet"
	}
	done, err := a.show(mode)
	if err != nil {
		return err
	}
	defer done()
	if err := a.lower(ctx, p); err != nil {
		return err
	}
	if err := a.enterFor(ctx, p); err != nil {
		return err
	}
	for _, w := range slices.Concat(p.file.Warnings, p.lowered.Warnings) { // now, that they come once
		a.display.Warn(fmt.Sprintf("%s: %s (line %d)", w.Rule, w.Text, w.Start))
	}
	a.warnIsolation()
	if err := a.checkSecurity(p.rights); err != nil {
		return err
	}
	if err := a.limit(&p.limits); err != nil {
		return err
	}
	a.tidy()
	var results []*exporter.Result
	err = a.retryDamaged(func() (err error) {
		results, err = a.produce(ctx, p)
		return err
	})
	for _, x := range p.index {
		err = errors.Join(err, x.Save())
	}
	if err != nil {
		return err
	}
	done()
	return a.records(p, results)
}

// plan checks the command line and reads the Dockerfile.
func (a *app) plan(o *buildOptions, path string) (*plan, error) {
	p := &plan{buildOptions: o, context: path}
	if _, err := parseIsolation(a.isolation); err != nil {
		return nil, err
	}
	if _, _, err := o.limits.limits(); err != nil {
		return nil, err
	}
	switch kind := parser.Remote(path); {
	case path == "-":
		return nil, usagef("name a folder", "a context on standard input is not supported by this version")
	case kind != "":
		return nil, usagef("check it out, and name the folder", "a context at a %s is not supported by this version", kind)
	}
	if fi, err := os.Stat(path); err != nil {
		return nil, &usageError{fmt.Errorf("context %s: %w", path, err.(*fs.PathError).Err), ""}
	} else if !fi.IsDir() {
		return nil, usagef("the context is a folder; name the Dockerfile with -f", "context %s: not a directory", path)
	}
	for _, f := range []func(*plan) error{planFlags, planSecrets, planOutputs, a.readDockerfile, readIgnore} {
		if err := f(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// planFlags reads the flags whose values have a form.
func planFlags(p *plan) error {
	p.platform = platforms.Normalize(platforms.DefaultSpec())
	if p.buildOptions.platform != "" {
		if strings.Contains(p.buildOptions.platform, ",") {
			return usagef("build one platform at a time", "--platform %s: several platforms are not supported by this version", p.buildOptions.platform)
		}
		parsed, err := platforms.Parse(p.buildOptions.platform)
		if err != nil {
			return usagef("it looks like linux/amd64", "--platform %s: %w", p.buildOptions.platform, err)
		}
		p.platform = platforms.Normalize(parsed)
	}
	if err := planNetwork(p); err != nil {
		return err
	}
	if p.jobs < 1 {
		return usagef("", "--jobs %d: at least 1 step must run", p.jobs)
	}
	p.args = map[string]string{}
	for _, arg := range p.buildOptions.args {
		k, v, ok := strings.Cut(arg, "=")
		if !ok {
			v, ok = os.LookupEnv(k)
		}
		if ok {
			p.args[k] = v
		}
	}
	var err error
	if p.labels, err = pairs("--label", p.buildOptions.labels); err != nil {
		return err
	}
	if p.hosts, err = hosts(p.buildOptions.hosts); err != nil {
		return err
	}
	if p.rights, err = p.security.parse(); err != nil {
		return err
	}
	return planEpoch(p)
}

// planNetwork reads --allow and --network.
func planNetwork(p *plan) error {
	for _, name := range p.allow {
		switch name {
		case "network.host":
			p.hostNet = true
		case "security.insecure":
			p.insecure = true
		default:
			return usagef("network.host and security.insecure are those that this version knows", "--allow %s: no such entitlement", name)
		}
	}
	if err := checkNetwork(p.network); err != nil {
		return err
	}
	if p.network == string(llb.NetworkHost) && !p.hostNet {
		return usagef("build with --allow network.host if the Dockerfile may use the services of this host", "--network host: network.host is not allowed")
	}
	return nil
}

// checkNetwork checks the value of --network.
func checkNetwork(name string) error {
	switch llb.Network(name) {
	case llb.NetworkDefault, llb.NetworkNone, llb.NetworkHost:
		return nil
	}
	return usagef("it is default, none or host", "--network %s: no such network", name)
}

// planEpoch reads SOURCE_DATE_EPOCH, which the environment hands on to every build.
func planEpoch(p *plan) error {
	const name = "SOURCE_DATE_EPOCH"
	text, ok := p.args[name]
	if !ok {
		if text = os.Getenv(name); text != "" {
			p.args[name] = text
		}
	}
	if text == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return usagef("it is a number of seconds since 1970", "invalid %s: %s", name, text)
	}
	t := time.Unix(seconds, 0).UTC()
	p.epoch = &t
	return nil
}

// planSecrets reads --secret and --ssh.
func planSecrets(p *plan) error {
	p.secrets, p.agents = map[string]source.Secret{}, map[string]func(net.Conn){}
	for _, text := range p.buildOptions.secrets {
		s, err := source.ParseSecret(text)
		if err != nil {
			return usagef("it looks like id=ID,src=FILE or id=ID,env=VARIABLE", "--secret %s: %w", text, fileError(err))
		}
		p.secrets[s.ID] = s
	}
	for _, text := range p.buildOptions.agents {
		a, err := source.ParseAgent(text)
		if err != nil {
			return usagef("it looks like default, ID=SOCKET or ID=KEY; a key must have no passphrase", "--ssh %s: %w", text, fileError(err))
		}
		if _, twice := p.agents[a.ID]; twice {
			return usagef("", "--ssh %s: duplicate agent ID %q", text, a.ID)
		}
		p.agents[a.ID] = a.Serve
	}
	return nil
}

// secret returns the value of a secret of the command line.
func (p *plan) secret(id string) ([]byte, bool, error) {
	s, ok := p.secrets[id]
	if !ok {
		return nil, false, nil
	}
	b, err := s.Read()
	return b, err == nil, err
}

// planOutputs reads -o and --push.
func planOutputs(p *plan) error {
	for _, text := range p.buildOptions.outputs {
		spec, err := exporter.ParseOutput(text)
		if err != nil {
			return &usageError{err: err}
		}
		p.outputs = append(p.outputs, spec)
	}
	if p.push {
		p.outputs = append(p.outputs, exporter.Output{Type: exporter.TypeRegistry})
	}
	for i, t := range p.tags {
		named, err := source.Normalize(t)
		if err != nil {
			return usagef("a name looks like registry.example/folder/app:1", "--tag %s: %w", t, err)
		}
		p.tags[i] = named.String()
	}
	for _, out := range p.outputs {
		if (out.Type == exporter.TypeRegistry || out.Push) && len(p.tags) == 0 && len(out.Names) == 0 {
			return usagef("name it with -t", "an image without a name cannot be pushed")
		}
	}
	return nil
}

// readDockerfile reads and parses the Dockerfile. Without -f, one called "dockerfile" will do too.
func (a *app) readDockerfile(p *plan) error {
	path := p.buildOptions.file
	switch path {
	case "-":
		return usagef("write it to a file", "a Dockerfile on standard input is not supported by this version")
	case "":
		path = filepath.Join(p.context, "Dockerfile")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if lower := filepath.Join(p.context, "dockerfile"); exists(lower) {
				path = lower
			}
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return usagef("name it with -f", "failed to read dockerfile: %w", err)
	}
	p.buildOptions.file = path
	a.dockerfile = data
	p.file, err = parser.Parse(filepath.Base(path), data)
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readIgnore reads the ignore patterns: those beside the Dockerfile under its name take the place of the context's.
func readIgnore(p *plan) error {
	for _, path := range []string{p.buildOptions.file + ".dockerignore", filepath.Join(p.context, ".dockerignore")} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &usageError{err: fileError(err)}
		}
		p.ignore, err = parser.ParseIgnore(path, data)
		return err
	}
	return nil
}

// lower turns the Dockerfile into a graph, for which it finds out what base images are.
func (a *app) lower(ctx context.Context, p *plan) error {
	opt := lower.Options{
		Target: p.target, Platform: p.platform, BuildPlatform: platforms.Normalize(platforms.DefaultSpec()),
		BuildArgs: p.args, Labels: p.labels, Hosts: p.hosts, Epoch: p.epoch, Network: llb.Network(p.network), AllowHostNetwork: p.hostNet, AllowInsecure: p.insecure, Security: p.rights, Hostname: p.args["BUILDKIT_SANDBOX_HOSTNAME"],
		NoCache: p.noCache, NoCacheFilter: p.noCacheFilter, Ignore: p.ignore,
		Resolve: func(ctx context.Context, ref string, platform ocispec.Platform) (*lower.Image, error) {
			return a.resolve(ctx, ref, platform, p.pull)
		},
	}
	var err error
	if opt.NamedContexts, err = a.namedContexts(p); err != nil {
		return err
	}
	if err := a.local(p, "context", p.context, p.ignore); err != nil {
		return err
	}
	if p.lowered, err = lower.Lower(ctx, p.file, opt); err != nil {
		return err
	}
	return nil
}

// local makes a folder known to the executor under a name.
func (a *app) local(p *plan, name, dir string, ignore []string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	index := source.OpenStatIndex(a.disk, abs)
	t, err := source.NewLocal(abs, ignore, index)
	if err != nil {
		return &usageError{err: fileError(err)}
	}
	p.index = append(p.index, index)
	a.executor.Locals[name] = t
	return nil
}

func (a *app) resolve(ctx context.Context, ref string, p ocispec.Platform, pull bool) (*lower.Image, error) {
	r, err := a.images.Resolve(ctx, ref, p, pull)
	if err != nil {
		return nil, err
	}
	return &lower.Image{Ref: r.Pinned(), Layers: r.Layers, Config: r.Spec}, nil
}

// namedContexts reads --build-context.
func (a *app) namedContexts(p *plan) (map[string]lower.Context, error) {
	out := map[string]lower.Context{}
	for _, text := range p.contexts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, usagef("it looks like base=oci-layout://DIR", "--build-context %s: no NAME=VALUE", text)
		}
		switch ref, isImage := strings.CutPrefix(value, "docker-image://"); {
		case isImage, strings.HasPrefix(value, "oci-layout://"):
			out[name] = lower.Context{Image: func(ctx context.Context, platform ocispec.Platform) (*lower.Image, error) {
				return a.resolve(ctx, ref, platform, p.pull)
			}}
		case parser.Remote(value) != "":
			return nil, usagef("check it out, and name the folder", "--build-context %s: a %s is not supported by this version", text, parser.Remote(value))
		default:
			ignore, err := folderIgnore(value)
			if err != nil {
				return nil, err
			}
			local := "context:" + name
			if err := a.local(p, local, value, ignore); err != nil {
				return nil, err
			}
			out[name] = lower.Context{Local: local, Exclude: ignore}
		}
	}
	return out, nil
}

// folderIgnore reads the .dockerignore of a folder that is a named context.
func folderIgnore(dir string) ([]string, error) {
	path := filepath.Join(dir, ".dockerignore")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &usageError{err: fileError(err)}
	}
	return parser.ParseIgnore(path, data)
}

func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		k, v, _ := strings.Cut(text, "=")
		if k == "" {
			return nil, usagef("it looks like KEY=VALUE", "%s %q: the key is empty", flag, text)
		}
		out[k] = v
	}
	return out, nil
}

// hosts reads --add-host: NAME:IP or NAME=IP, an IPv6 address with or without brackets.
func hosts(list []string) ([]llb.Host, error) {
	var out []llb.Host
	for _, text := range list {
		i := strings.IndexAny(text, ":=")
		if i < 1 || i == len(text)-1 {
			return nil, usagef("it looks like NAME:IP", "--add-host %q: no NAME:IP", text)
		}
		ip := strings.TrimSuffix(strings.TrimPrefix(text[i+1:], "["), "]")
		if ip != llb.HostGateway && net.ParseIP(ip) == nil {
			return nil, usagef("it looks like NAME:IP", "--add-host %q: %q is not an IP address", text, ip)
		}
		out = append(out, llb.Host{Name: text[:i], IP: ip})
	}
	return out, nil
}

// enterFor goes on in a user namespace if the build needs one: when a step will run a process, or files of a step's
// layer are read, whose owners only exist there. A build that is all known needs none.
func (a *app) enterFor(ctx context.Context, p *plan) error {
	if len(p.outputs) == 0 && os.Geteuid() != 0 {
		if _, ok, err := a.solver(p).Known(ctx, p.lowered.Root); ok || err != nil {
			return err
		}
	}
	err := a.enter(ctx)
	var host *userns.HostError
	if errors.As(err, &host) && !runs(p.lowered.Root, map[digest.Digest]bool{}) {
		return nil // only files are placed: that works everywhere
	}
	return err
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
		Executor: a.executor,
		Memory:   executor.Memory{Store: a.disk, Layers: a.layers},
		Observer: a.display,
		Jobs:     p.jobs,
	}
}
