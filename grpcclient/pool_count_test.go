package grpcclient

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
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

func TestStreamsThatBeginAtTheSameMomentAreSpread(t *testing.T) {
	t.Parallel()
	const n, each = 4, 16
	for range 20 {
		p := newPool(t, "passthrough:///nowhere", n, PoolConfig{})
		begin := make(chan struct{})
		var streams sync.WaitGroup
		for range n * each {
			streams.Go(func() {
				<-begin
				c, err := p.acquire(t.Context(), true)
				if assert.NoError(t, err) {
					t.Cleanup(func() { p.release(c) })
				}
			})
		}
		close(begin)
		streams.Wait()
		for _, c := range *p.conns.Load() {
			assert.InDelta(t, each, c.calls.Load(), 1)
		}
	}
}

// A stream waits for a connection.
func TestAStreamThatBeginsCountsOnce(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	open := make(chan struct{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{Config: dialing(t, func(ctx context.Context, _ int) error {
		return opened(ctx, open)
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

// renewed is a stream that an interceptor ends, and begins anew, in one of its
// methods.
type renewed struct {
	grpc.ClientStream
	in    string
	renew func() (grpc.ClientStream, error)
}

func (r *renewed) now(method string) (err error) {
	if r.in == method {
		r.ClientStream, err = r.renew()
	}
	return err
}

func (r *renewed) SendMsg(m any) error {
	if err := r.now("SendMsg"); err != nil {
		return err
	}
	return r.ClientStream.SendMsg(m)
}

func (r *renewed) CloseSend() error {
	if err := r.now("CloseSend"); err != nil {
		return err
	}
	return r.ClientStream.CloseSend()
}

func (r *renewed) Header() (metadata.MD, error) {
	if err := r.now("Header"); err != nil {
		return nil, err
	}
	_ = r.ClientStream.CloseSend()
	return r.ClientStream.Header()
}

func (r *renewed) RecvMsg(m any) error {
	if err := r.now("RecvMsg"); err != nil {
		return err
	}
	_ = r.ClientStream.CloseSend()
	return r.ClientStream.RecvMsg(m)
}

// The connection is replaced while its only stream has ended: an interceptor that
// begins it anew still has it.
func TestAnInterceptorMayRepeatAStreamOnAConnectionThatWasReplaced(t *testing.T) {
	t.Parallel()
	for method, do := range map[string]func(testgrpc.TestService_FullDuplexCallClient) error{
		"SendMsg": func(s testgrpc.TestService_FullDuplexCallClient) error {
			return s.Send(&testgrpc.StreamingOutputCallRequest{})
		},
		"CloseSend": func(s testgrpc.TestService_FullDuplexCallClient) error { return s.CloseSend() },
		"Header": func(s testgrpc.TestService_FullDuplexCallClient) error {
			_, err := s.Header()
			return err
		},
		"RecvMsg": func(s testgrpc.TestService_FullDuplexCallClient) error {
			if _, err := s.Recv(); err != io.EOF {
				return err
			}
			return nil
		},
		"NewStream": nil, // before it has returned
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			ln := listen(t)
			serve(t, ln, &tester{})
			ended, goOn := make(chan struct{}), make(chan struct{})
			again := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, rpc string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				first, cancel := context.WithCancel(ctx)
				s, err := next(first, desc, cc, rpc, opts...)
				renew := func() (grpc.ClientStream, error) {
					cancel()
					ended <- struct{}{}
					<-goOn
					return next(ctx, desc, cc, rpc, opts...)
				}
				if method == "NewStream" {
					return renew()
				}
				return &renewed{s, method, renew}, err
			}
			told, trace := newTraced()
			p := newPool(t, ln.Addr().String(), 1, PoolConfig{Trace: trace}, grpc.WithStreamInterceptor(again))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got := after(func() error {
				s, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
				if err == nil && do != nil {
					err = do(s)
				}
				return err
			})
			within(t, ended, 5*time.Second)
			require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 0 }))
			outlive(p, 0)
			within(t, told.replaced, 5*time.Second)
			require.Never(t, func() bool { return len(told.drained) > 0 }, 50*time.Millisecond, 5*time.Millisecond)
			close(goOn)
			require.NoError(t, within(t, got, 5*time.Second))
			cancel()
			within(t, told.drained, 5*time.Second)
			assert.Zero(t, p.Stat().InFlight)
		})
	}
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

// token is a user's credentials for each call.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": "7"}, nil
}
func (token) RequireTransportSecurity() bool { return false }

// watcher is a user's stats handler that counts ends.
type watcher struct {
	stats.Handler
	ends atomic.Int32
}

func (*watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*watcher) HandleConn(context.Context, stats.ConnStats)                       {}
func (*watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (w *watcher) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); ok {
		w.ends.Add(1)
	}
}

func TestInterceptorsCredentialsAndStatsWorkAsInAClientConn(t *testing.T) {
	t.Parallel()
	var tokens atomic.Int32
	check := func(ctx context.Context) {
		if md, _ := metadata.FromIncomingContext(ctx); slices.Equal(md.Get("token"), []string{"7"}) {
			tokens.Add(1)
		}
	}
	ln := listen(t)
	serve(t, ln, &tester{},
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			check(ctx)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			check(s.Context())
			return next(srv, s)
		}))
	var mu sync.Mutex
	var order []string
	var seen []*grpc.ClientConn
	note := func(who string, cc *grpc.ClientConn) {
		mu.Lock()
		defer mu.Unlock()
		order, seen = append(order, who), append(seen, cc)
	}
	unary := func(who string) grpc.UnaryClientInterceptor {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			note(who, cc)
			return next(ctx, method, req, reply, cc, opts...)
		}
	}
	streams := func(who string) grpc.StreamClientInterceptor {
		return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			note(who, cc)
			return next(ctx, desc, cc, method, opts...)
		}
	}
	w := &watcher{}
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{}, grpc.WithPerRPCCredentials(token{}), grpc.WithStatsHandler(w),
		grpc.WithChainUnaryInterceptor(unary("b"), unary("c")), grpc.WithUnaryInterceptor(unary("a")),
		grpc.WithChainStreamInterceptor(streams("e"), streams("f")), grpc.WithStreamInterceptor(streams("d")))
	_, err := call(t.Context(), p)
	require.NoError(t, err)
	s, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	assert.IsType(t, &stream{}, s.(*grpc.GenericClientStream[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]).ClientStream)
	require.NoError(t, s.CloseSend())
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)
	assert.Equal(t, []string{"a", "b", "c", "d", "e", "f"}, order)
	for _, cc := range seen {
		assert.Same(t, (*p.conns.Load())[0].cc, cc)
	}
	assert.EqualValues(t, 2, tokens.Load())
	assert.True(t, eventually(5*time.Second, func() bool { return w.ends.Load() == 2 }))
}

// The server says that it doesn't serve, and says it does again.
func TestAPoolHeedsTheServersHealth(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	srv := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(srv, &tester{})
	h := health.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	run(t, ln, srv)
	told, trace := newTraced()
	p := newPool(t, ln.Addr().String(), 2, PoolConfig{Config: Config{HealthCheck: true}, Trace: trace})
	_, err := call(t.Context(), p)
	require.NoError(t, err)
	ready(t, p, 1)
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Ready == 0 }))
	for range 4 {
		_, err = call(t.Context(), p)
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	}
	outlive(p, 0)
	waits := after(func() error { _, err := call(t.Context(), p, grpc.WaitForReady(true)); return err })
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 1 }))
	assert.Empty(t, told.replaced, "a new one wouldn't be better")
	h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	require.NoError(t, within(t, waits, 5*time.Second))
	within(t, told.replaced, 5*time.Second)
}
