package grpcclient

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
)

func TestACallThatWaitsIsCountedOnce(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{})
	c := (*p.conns.Load())[0]
	c.suspect.Store(true)
	c.replacer = func() {} // as if it were being replaced
	ctx, cancel := context.WithCancel(t.Context())
	got := after(func() error { _, err := p.acquire(ctx, false); return err })
	for range 5 {
		var seen chan struct{}
		require.True(t, eventually(5*time.Second, func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			seen = p.changed
			return p.stat.Waited > 0
		}))
		p.mu.Lock()
		p.wake()
		p.mu.Unlock()
		within(t, seen, 5*time.Second)
	}
	cancel()
	require.Error(t, within(t, got, 5*time.Second))
	assert.EqualValues(t, 1, p.Stat().Waited)
}

// A stream waits for a connection.
func TestAStreamThatBeginsCountsOnce(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	open := make(chan struct{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{Config: dialing(t, func(ctx context.Context, _ int) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := after(func() error {
		_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx, grpc.WaitForReady(true))
		return err
	})
	c := (*p.conns.Load())[0]
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight > 0 && c.cc.GetState() != 0 }))
	assert.Equal(t, 1, p.Stat().InFlight)
	close(open)
	require.NoError(t, within(t, got, 5*time.Second))
	assert.Equal(t, 1, p.Stat().InFlight)
}

// again is an interceptor that begins a stream anew when it fails.
func again(failed, goOn chan struct{}) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := next(ctx, desc, cc, method, opts...)
		return &repeated{s, func() (grpc.ClientStream, error) {
			failed <- struct{}{}
			<-goOn
			return next(ctx, desc, cc, "/grpc.testing.TestService/FullDuplexCall", opts...)
		}}, err
	}
}

type repeated struct {
	grpc.ClientStream
	again func() (grpc.ClientStream, error)
}

func (r *repeated) RecvMsg(m any) error {
	err := r.ClientStream.RecvMsg(m)
	if err == nil || err == io.EOF {
		return err
	}
	if r.ClientStream, err = r.again(); err != nil {
		return err
	}
	if err := r.ClientStream.CloseSend(); err != nil {
		return err
	}
	return r.ClientStream.RecvMsg(m)
}

// The connection is replaced, and its only stream fails: an interceptor that
// repeats streams still has it.
func TestAnInterceptorMayRepeatAStreamOnAConnectionThatWasReplaced(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	failed, goOn := make(chan struct{}), make(chan struct{})
	told, trace := newTraced()
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{Trace: trace}, grpc.WithStreamInterceptor(again(failed, goOn)))
	s, err := testgrpc.NewTestServiceClient(p).HalfDuplexCall(t.Context())
	require.NoError(t, err)
	got := after(func() error { _, err := s.Recv(); return err })
	within(t, failed, 5*time.Second) // unimplemented
	outlive(p, 0)
	within(t, told.replaced, 5*time.Second)
	require.Never(t, func() bool { return len(told.drained) > 0 }, 50*time.Millisecond, 5*time.Millisecond)
	close(goOn)
	require.Equal(t, io.EOF, within(t, got, 5*time.Second))
	within(t, told.drained, 5*time.Second)
	assert.Zero(t, p.Stat().InFlight)
}

// outlive makes a connection old.
func outlive(p *Pool, index int) {
	c := (*p.conns.Load())[index]
	p.mu.Lock()
	defer p.mu.Unlock()
	c.old = true
	p.replace(c)
}

// panicky is a user's stats handler that panics.
type panicky struct{ stats.Handler }

func (panicky) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (panicky) HandleConn(context.Context, stats.ConnStats)                       {}
func (panicky) TagRPC(context.Context, *stats.RPCTagInfo) context.Context         { panic("a bug") }

func TestAPanicIsNotACallInFlight(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{}, grpc.WithStatsHandler(panicky{}))
	assert.Panics(t, func() { _, _ = testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context()) })
	assert.Panics(t, func() { _, _ = call(t.Context(), p) })
	assert.Zero(t, p.Stat().InFlight)
}
