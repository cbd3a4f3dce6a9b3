package main

import (
	"context"
	"time"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/llb"
	"github.com/seed0570efb0/build/snapshot"
)

// sourceTime returns the time of a source that lies elsewhere: of the commit, or that which the server says, or else of the newest
// file in the archive that it is. It is nil when there is none of these.
func (a *app) sourceTime(ctx context.Context, p *plan, v *llb.Vertex) (*time.Time, error) {
	if git, ok := v.Op().(*llb.Git); ok && git.CheckoutTime {
		commit := *git
		commit.CheckoutTime = false
		v = llb.New(&commit, nil, v.Meta())
	}
	var newest int64
	err := a.view(ctx, p, v, func(view *snapshot.View) error {
		newest = 0
		return snapshot.Walk(view, ".", func(e snapshot.Entry) (bool, error) {
			if e.Type != snapshot.Regular {
				return true, nil
			}
			at := e.Mtime
			if _, file := v.Op().(*llb.HTTP); file && at == 0 {
				r, err := view.Open(e)
				if err != nil {
					return false, err
				}
				defer r.Close()
				if at, err = executor.NewestFile(ctx, r); err != nil {
					return false, err
				}
			}
			newest = max(newest, at)
			return true, nil
		})
	})
	if err != nil || newest == 0 {
		return nil, err
	}
	t := time.Unix(newest, 0).UTC()
	return &t, nil
}
