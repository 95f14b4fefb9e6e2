package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// The sides' names.
const (
	ordinary = "grpc.NewClient"
	tuned    = "the same, tuned"
	level1   = "DialOptions"
	level2   = "Pool"
)

var levels = []string{ordinary, tuned, level1, level2}

// holdfast reports whether a side is it.
func holdfast(level string) bool { return level == level1 || level == level2 }

// side is a way to make calls, and the books that are kept on it.
type side struct {
	level string
	cc    grpc.ClientConnInterface
	end   func()

	mu  sync.Mutex
	row *row // of the present fault; nil before it
}

// newSides makes a side of each level, for servers among which a resolver, such as
// DNS, offers the choice. They are to be closed.
func newSides(site *backstage.Site, detect time.Duration, servers []*server) (sides []*side, err error) {
	for _, level := range levels {
		s := &side{level: level}
		if err := s.connect(site, detect, servers); err != nil {
			closeAll(sides)
			return nil, err
		}
		sides = append(sides, s)
	}
	return sides, nil
}

func (s *side) connect(site *backstage.Site, detect time.Duration, servers []*server) error {
	found := manual.NewBuilderWithScheme("lab")
	var state resolver.State
	for _, srv := range servers {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: srv.addr}}})
	}
	found.InitialState(state)
	const target = "lab:///servers"
	opts := []grpc.DialOption{plaintext(), grpc.WithResolvers(found)}
	if !holdfast(s.level) {
		connect := site.Dial(new(net.Dialer).DialContext)
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return connect(ctx, "tcp", addr) }))
		if s.level == tuned {
			opts = append(opts, tuning(detect)...)
		}
		cc, err := grpc.NewClient(target, opts...)
		if err != nil {
			return err
		}
		s.cc, s.end = cc, func() { _ = cc.Close() }
		return nil
	}
	d, err := site.Dialer(detect)
	if err != nil {
		return err
	}
	if s.level == level1 {
		cc, err := withOptions(target, d, opts...)
		if err != nil {
			return errors.Join(err, d.Close())
		}
		s.cc, s.end = cc, func() { _ = cc.Close(); _ = d.Close() }
		return nil
	}
	p, err := withPool(target, d, opts...)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	s.cc, s.end = p, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
		_ = d.Close()
	}
	return nil
}

func closeAll(sides []*side) {
	for _, s := range sides {
		s.end()
	}
}

// call makes a call, which waits for a connection, or doesn't, and notes what came
// of it.
func (s *side) call(ctx context.Context, deadline time.Duration, wait bool) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	_, err := healthpb.NewHealthClient(s.cc).Check(limited, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(wait))
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.row != nil {
		s.row.ended(began, time.Now(), wait, err)
	}
}

// strike begins a row: from now on things break.
func (s *side) strike() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row = &row{level: s.level, struck: time.Now()}
}

// broken notes that they are.
func (s *side) broken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.row.over, s.row.back = now, now
}

// back notes that a server can be reached again.
func (s *side) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.back, s.row.success = time.Now(), time.Time{}
	s.row.later = count{}
}

// closeRow ends the row and returns it.
func (s *side) closeRow() row {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.end = time.Now()
	return *s.row
}
