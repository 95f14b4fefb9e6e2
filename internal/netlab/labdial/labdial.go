// Package labdial has holdfast's dialers dial from the hosts of a lab. It is apart
// from netlab, which package dial's own tests import.
package labdial

import (
	"context"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// From returns a Trace that has all dials happen at a host. It works since the dial
// of an address stays on one goroutine, with its first and its last hook.
func From(h *netlab.Host) *dial.Trace {
	type key struct{}
	return &dial.Trace{
		DialStart: func(ctx context.Context, _ dial.DialStart) context.Context {
			leave, err := h.Enter()
			if err != nil {
				ctx, cancel := context.WithCancelCause(ctx)
				cancel(err)
				return ctx
			}
			return context.WithValue(ctx, key{}, leave)
		},
		DialDone: func(ctx context.Context, _ dial.DialDone) {
			if leave, ok := ctx.Value(key{}).(func()); ok {
				leave()
			}
		},
	}
}
