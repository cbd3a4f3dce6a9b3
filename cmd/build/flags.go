package main

import (
	"cmp"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/entitlements"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"github.com/seed0570efb0/build/llb"
)

// buildOptions are the flags of a build, as they were written.
type buildOptions struct {
	file, target, network           string
	tags, args, contexts, platforms []string
	labels, hosts, outputs          []string
	annotations                     []string
	secrets, agents                 []string
	noCache, pull, push, quiet      bool
	noCacheFilter, allow            []string
	iidFile, metadataFile, progress string
	call                            string
	provenance, sbom                string
	check                           bool
	jobs                            int64
	cacheLimit                      string
	limits                          limitOptions
	security                        securityOptions
	devices                         deviceOptions
}

// A repeated is the value of a flag that may be repeated: each time is one more, with commas or without. pflag's own writes its default as
// CSV when the flag is made, which takes some 4 KiB for each.
type repeated []string

// Set implements pflag.Value.
func (r *repeated) Set(value string) error { *r = append(*r, value); return nil }

// String implements pflag.Value.
func (r *repeated) String() string { return strings.Join(*r, ",") }

// Type implements pflag.Value, with a word by which cobra knows that the flag may be repeated.
func (r *repeated) Type() string { return "stringArray" }

// repeatedVar makes such a flag.
func repeatedVar(f *pflag.FlagSet, values *[]string, name, short, usage string) {
	f.VarP((*repeated)(values), name, short, usage)
}

// flags makes the flags, whose values are checked by planFlags and its like.
func (o *buildOptions) flags(f *pflag.FlagSet) {
	f.SortFlags = true
	o.definitionFlags(f)
	f.StringVar(&o.call, "call", "", "`METHOD`: build, check, outline, targets or subrequests.describe, with ,format=json for programs")
	f.BoolVar(&o.check, "check", false, "look for mistakes in the Dockerfile and build nothing; the same as --call=check")
	repeatedVar(f, &o.outputs, "output", "o", "`DEST` of the result: type=oci|docker|local|tar|registry,dest=PATH; a PATH alone is a folder, - a tar on standard output")
	f.BoolVar(&o.push, "push", false, "push the image to the registries its names say")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the image's ID")
	f.StringVar(&o.iidFile, "iidfile", "", "write the image's ID to this `FILE`")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write digests and names to this `FILE`, as JSON")
	f.StringVar(&o.progress, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "the `MODE` of showing progress: auto, tty, plain, rawjson or quiet")
	f.StringVar(&o.cacheLimit, "cache-limit", "", "the `SIZE` that the store may have on the disk, like 20g (default $"+cacheLimitVariable+"): what names and running builds do not need is evicted")
	o.limits.flags(f)
}

// definitionFlags makes the flags that say what is built, and not what becomes of it.
func (o *buildOptions) definitionFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.file, "file", "f", "", "the Dockerfile: a `FILE`, a URL, or - for standard input (default PATH/Dockerfile); in a context that is no folder, a path in it")
	repeatedVar(f, &o.tags, "tag", "t", "name of the image, as `NAME[:TAG]`; may be repeated")
	repeatedVar(f, &o.args, "build-arg", "", "value of an ARG, as `KEY=VALUE`, or KEY for that of the environment")
	repeatedVar(f, &o.contexts, "build-context", "", "a stage or image under another name, as `NAME=PATH`, NAME=docker-image://REF, NAME=oci-layout://DIR[:TAG] or NAME=URL; NAME::PLATFORM is for one platform")
	f.StringVar(&o.target, "target", "", "the `STAGE` to build (default the last one)")
	f.StringSliceVar(&o.platforms, "platform", nil, "the platforms to build for, as `OS/ARCH[/VARIANT],...` (default $DOCKER_DEFAULT_PLATFORM, or that of this machine)")
	repeatedVar(f, &o.labels, "label", "", "label of the image, as `KEY=VALUE`")
	repeatedVar(f, &o.hosts, "add-host", "", "line of /etc/hosts in RUN steps, as `NAME:IP`; the IP host-gateway is this host")
	repeatedVar(f, &o.annotations, "annotation", "", "annotation of what is written to an archive or a registry, as [TYPE[PLATFORM]:]`KEY=VALUE`, TYPE being manifest, manifest-descriptor, index or index-descriptor")
	f.StringVar(&o.network, "network", "default", "the network `MODE` of RUN steps: default, none or host")
	repeatedVar(f, &o.allow, "allow", "", "the `RIGHT` of steps to ask for more than their sandbox: network.host, the network of this host; device[=NAME], its devices; security.insecure, all else")
	repeatedVar(f, &o.secrets, "secret", "", "value for RUN --mount=type=secret, as `id=ID,src=FILE` or id=ID,env=VARIABLE")
	repeatedVar(f, &o.agents, "ssh", "", "SSH agent for RUN --mount=type=ssh, as default, `ID=SOCKET` or ID=KEY[,KEY]")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step, whatever is known of it")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "run every step of each `STAGE`")
	f.BoolVar(&o.pull, "pull", false, "ask the registries again what the tags of base images mean")
	f.Int64Var(&o.jobs, "jobs", int64(max(4*runtime.NumCPU(), 16)), "the `NUMBER` of steps that may run at once")
	f.StringVar(&o.provenance, "provenance", "false", "attestations are not made: `false` is all it can be")
	f.StringVar(&o.sbom, "sbom", "false", "attestations are not made: `false` is all it can be")
	o.security.flags(f)
	o.devices.flags(f)
}

// envOr returns a variable of the environment, or value where it is not set.
func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

// planPlatforms reads --platform.
func planPlatforms(p *plan) error {
	names := p.buildOptions.platforms
	if len(names) == 0 {
		name := os.Getenv("DOCKER_DEFAULT_PLATFORM")
		p.implied = name == ""
		names = []string{cmp.Or(name, "local")}
	}
	for _, name := range names {
		parsed, err := platforms.DefaultSpec(), error(nil)
		if name != "local" {
			parsed, err = platforms.Parse(name)
		}
		if err != nil {
			return usagef("it looks like linux/amd64, or linux/amd64,linux/arm64", "--platform %s: %w", name, err)
		}
		parsed = platforms.Normalize(parsed)
		if again, err := platforms.Parse(platforms.FormatAll(parsed)); err != nil || platforms.FormatAll(again) != platforms.FormatAll(parsed) {
			return usagef("it looks like linux/amd64, or linux/amd64,linux/arm64", "--platform %s: there is no such platform", name)
		}
		same := func(o ocispec.Platform) bool { return platforms.FormatAll(o) == platforms.FormatAll(parsed) }
		if !slices.ContainsFunc(p.platforms, same) {
			p.platforms = append(p.platforms, parsed)
		}
	}
	return nil
}

// several reports whether the images are made as those of several platforms.
func (p *plan) several() bool { return p.indexed || len(p.platforms) > 1 }

// planIndex reads BUILDKIT_MULTI_PLATFORM, which makes an index over one image, too.
func planIndex(p *plan) (err error) {
	text := p.args["BUILDKIT_MULTI_PLATFORM"]
	if text == "" {
		return nil
	}
	if p.indexed, err = strconv.ParseBool(text); err != nil {
		return usagef("it is true or false", "invalid boolean value for multi-platform: %s", text)
	}
	if !p.indexed && len(p.platforms) > 1 {
		return usagef("leave BUILDKIT_MULTI_PLATFORM out", "conflicting config: returning multiple target platforms is not allowed")
	}
	return nil
}

// planFlags reads the flags whose values have a form.
func planFlags(p *plan) error {
	if err := checkAttestations(p.buildOptions); err != nil {
		return err
	}
	if err := planRights(p); err != nil {
		return err
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
	if err := planIndex(p); err != nil {
		return err
	}
	return planEpoch(p)
}

// checkAttestations makes sure that none are asked for.
func checkAttestations(o *buildOptions) error {
	for _, f := range []struct{ name, value string }{{"provenance", o.provenance}, {"sbom", o.sbom}} {
		if wanted, err := strconv.ParseBool(f.value); wanted || err != nil {
			return usagef("leave it out", "--%s %s: attestations are not supported by this version", f.name, f.value)
		}
	}
	return nil
}

// planRights reads --allow.
func planRights(p *plan) error {
	for _, text := range p.allow {
		list := []string{text}
		if !strings.HasPrefix(text, "device=") { // which has fields of its own
			list = strings.Split(text, ",")
		}
		for _, name := range list {
			right, config, err := entitlements.Parse(name)
			if err != nil {
				return usagef("network.host, security.insecure and device[=NAME[,alias=NAME]] are known", "--allow %s: %w", name, err)
			}
			switch right {
			case entitlements.EntitlementNetworkHost:
				p.hostNet = true
			case entitlements.EntitlementSecurityInsecure:
				p.insecure = true
			case entitlements.EntitlementDevice:
				p.granted.add(config.(*entitlements.DevicesConfig))
			}
		}
	}
	return nil
}

// planNetwork reads --network.
func planNetwork(p *plan) error {
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
		return nil // it may be the name of a context
	}
	t := time.Unix(seconds, 0).UTC()
	p.epoch = &t
	return nil
}

// pairs reads a flag whose values are KEY=VALUE.
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
