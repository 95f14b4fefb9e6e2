package main

import (
	"context"
	"net"
	"time"

	"github.com/jackc/puddle/v2"

	"github.com/holdfast-go/holdfast/health"
)

// plain is the pool that stands beside holdfast: puddle and a net.Dialer, put
// together as it is usually done. A connection on which anything failed is
// destroyed, any other goes back.
type plain struct{ pool *puddle.Pool[*client] }

func newPlain(addr string, conns int, s *side, via func(health.DialFunc) health.DialFunc) (*plain, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	connect := via(d.DialContext)
	p, err := puddle.NewPool(&puddle.Config[*client]{
		Constructor: func(ctx context.Context) (*client, error) {
			s.opening()
			c, err := connect(ctx, "tcp", addr)
			s.opened(err)
			if err != nil {
				return nil, err
			}
			return newClient(c), nil
		},
		Destructor: func(c *client) {
			_ = c.Close()
			s.closed(time.Since(c.born))
		},
		MaxSize: int32(conns),
	})
	if err != nil {
		return nil, err
	}
	return &plain{p}, nil
}

// Do is what pool.Pool.Do is called on the other side.
func (p *plain) Do(ctx context.Context, f func(context.Context, *client) error) error {
	r, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	if err := f(ctx, r.Value()); err != nil {
		r.Destroy()
		return err
	}
	r.Release()
	return nil
}

// Close waits until the workers' connections are back.
func (p *plain) Close(context.Context) error {
	p.pool.Close()
	return nil
}
