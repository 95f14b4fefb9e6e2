package main

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/holdfast-go/holdfast/dial"
)

// side is a way to make calls, and the books that are kept on it.
type side struct {
	name string
	cc   grpc.ClientConnInterface
	end  func()

	mu  sync.Mutex
	row *row // of the present fault; nil before it
}

// row is what one fault did to one side.
type row struct {
	struck, back time.Time
	failed       int
	last         time.Time // when the last failed call had begun
	success      time.Time // when the first call ended well that ended after back
}

// newSides connects the three sides with a target.
func newSides(s *site, target string, detect time.Duration) (sides []*side, err error) {
	defer func() {
		if err != nil {
			closeAll(sides)
		}
	}()
	plain, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return s.dial((&net.Dialer{}).DialContext)(ctx, "tcp", addr)
		}))
	if err != nil {
		return nil, err
	}
	sides = append(sides, &side{name: "grpc.NewClient", cc: plain, end: func() { plain.Close() }})
	d, err := dial.New(dial.Config{DetectWithin: detect, Guard: s.guard, Trace: s.trace})
	if err != nil {
		return sides, err
	}
	cc, err := withOptions(target, d)
	if err != nil {
		return sides, err
	}
	sides = append(sides, &side{name: "DialOptions", cc: cc, end: func() { cc.Close() }})
	p, err := withPool(target, d)
	if err != nil {
		return sides, err
	}
	return append(sides, &side{name: "Pool", cc: p, end: func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
		d.Close()
	}}), nil
}

func closeAll(sides []*side) {
	for _, s := range sides {
		s.end()
	}
}

// call makes a call, which waits for a connection, and notes what came of it.
func (s *side) call(ctx context.Context, deadline time.Duration) error {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	_, err := healthpb.NewHealthClient(s.cc).Check(limited, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := s.row; {
	case r == nil:
	case err != nil:
		r.failed++
		if begun.After(r.last) {
			r.last = begun
		}
	case r.success.IsZero() && !r.back.IsZero():
		r.success = time.Now()
	}
	return err
}

// strike begins a row: from now on things break.
func (s *side) strike() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row = &row{struck: time.Now()}
}

// back notes that the server can be reached again.
func (s *side) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.back, s.row.success = time.Now(), time.Time{}
}

// closeRow ends the row and returns it.
func (s *side) closeRow() row {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := *s.row
	s.row = nil
	return r
}
