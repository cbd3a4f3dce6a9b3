package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/docker/go-units"

	"github.com/seed0570efb0/build/internal/digest"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/solver"
)

// cacheLimitVariable is the default of --cache-limit.
const cacheLimitVariable = "BUILD_CACHE_LIMIT"

// planCacheLimit reads --cache-limit.
func planCacheLimit(p *plan) (err error) {
	text, from := p.buildOptions.cacheLimit, "--cache-limit"
	if text == "" {
		text, from = os.Getenv(cacheLimitVariable), "$"+cacheLimitVariable
	}
	if text != "" {
		p.cacheLimit, err = parseSize(from, text)
	}
	return err
}

// parseSize reads a number of bytes that an option gives, which flag names. Units are powers of 1024, as docker's are.
func parseSize(flag, text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n <= 0 {
		return 0, usagef("it looks like 20g, 512mb or 1000000", "%s %s: no size", flag, text)
	}
	return n, nil
}

// limited returns x, or what keeps the store of p below its limit while x works.
func (p *plan) limited(x solver.Executor) solver.Executor {
	if p.enforce == nil {
		return x
	}
	return &limited{x, p.enforce}
}

// A limited executor keeps the store below its limit, after every step.
type limited struct {
	solver.Executor
	enforce func(context.Context)
}

// Execute implements solver.Executor.
func (l *limited) Execute(ctx context.Context, v *llb.Vertex, inputs []digest.Digest) (digest.Digest, error) {
	d, err := l.Executor.Execute(ctx, v, inputs)
	if err == nil && (len(inputs) > 0 || v.Remote()) { // other sources bring nothing by themselves
		l.enforce(ctx)
	}
	return d, err
}

// limitStore returns what keeps the store below the limit of p while its steps run, and what does so when the build is done.
func (a *app) limitStore(p *plan) (step, end func(context.Context)) {
	if p.cacheLimit == 0 {
		return nil, func(context.Context) {}
	}
	var ran atomic.Bool
	step = func(ctx context.Context) {
		ran.Store(true)
		_ = a.enforce(ctx, p.cacheLimit) // it is told at the end
	}
	return step, func(ctx context.Context) {
		if !ran.Load() && len(p.outputs) == 0 || ctx.Err() != nil {
			return // nothing came into the store
		}
		a.disk.Close() // what this build needed is not needed any more
		if err := a.enforce(ctx, p.cacheLimit); err != nil {
			a.warn(err.Error())
		}
	}
}

// enforce evicts until the store takes no more than limit. What cannot be evicted is no reason to fail: the build is right.
func (a *app) enforce(ctx context.Context, limit int64) error {
	r, err := a.collector.Enforce(ctx, limit)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("the limit of the store is not kept: %w", err)
	case r.Total > limit:
		return fmt.Errorf("the store takes %s, its limit is %s: names and running builds need what is left (see build du)",
			units.HumanSize(float64(r.Total)), units.HumanSize(float64(limit)))
	}
	return nil
}
