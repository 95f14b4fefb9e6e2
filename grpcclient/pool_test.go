package grpcclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestAPoolGivesCallsThatOverlapToDifferentConnections(t *testing.T) {
	t.Parallel()
	const n = 4
	s := &tester{block: make(chan struct{}), began: make(chan struct{}, 2*n)}
	ln := listen(t)
	serve(t, ln, s)
	p := newPool(t, ln.Addr().String(), n, PoolConfig{})
	for range 10 {
		_, err := call(t.Context(), p)
		require.NoError(t, err)
		ready(t, p, 1)
	}
	assert.Equal(t, 1, p.Stat().Ready, "one after another needs one connection")
	var asked []<-chan error
	ask := func() {
		asked = append(asked, after(func() error { return waiting(t.Context(), p) }))
		within(t, s.began, 5*time.Second)
	}
	var overlap sync.WaitGroup
	for range 2 * n {
		overlap.Go(func() {
			assert.True(t, eventually(5*time.Second, func() bool {
				_, err := call(t.Context(), p)
				return err != nil || p.Stat().Ready == n
			}), "calls that overlap need more")
		})
	}
	overlap.Wait()
	calls := p.Stat().Calls
	for range 2 * n {
		ask()
	}
	assert.Equal(t, Stat{Conns: n, Ready: n, InFlight: 2 * n, Calls: calls + 2*n}, p.Stat())
	for _, c := range *p.conns.Load() {
		assert.EqualValues(t, 2, c.calls.Load())
	}
	close(s.block)
	for _, ch := range asked {
		assert.NoError(t, within(t, ch, 5*time.Second))
	}
	assert.Zero(t, p.Stat().InFlight)
}

// The streams begin before the connections are there.
func TestAPoolSpreadsStreamsOverAllConnections(t *testing.T) {
	t.Parallel()
	const n = 4
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), n, PoolConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := call(ctx, p)
	require.NoError(t, err)
	clock, since := netlab.NewClock(t), time.Now()
	var begun sync.WaitGroup
	for range 2 * n {
		begun.Go(func() {
			_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
			assert.NoError(t, err)
		})
	}
	begun.Wait()
	ready(t, p, n)
	for _, c := range *p.conns.Load() {
		if clock.Lost(since) < maxOpening/2 { // otherwise they may have waited in vain
			assert.InDelta(t, 2, c.calls.Load(), 1)
		}
	}
	assert.Equal(t, Stat{Conns: n, Ready: n, InFlight: 2 * n, Calls: 1 + 2*n}, p.Stat())
}

// streams are the ways in which a stream can end, of each kind.
var streams = map[string]func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, cancel func()){
	"client streaming": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, _ func()) {
		s, err := c.StreamingInputCall(ctx)
		require.NoError(t, err)
		require.NoError(t, s.Send(&testgrpc.StreamingInputCallRequest{}))
		_, err = s.CloseAndRecv()
		require.NoError(t, err)
	},
	"server streaming": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, _ func()) {
		s, err := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: make([]*testgrpc.ResponseParameters, 2)})
		require.NoError(t, err)
		for range 2 {
			_, err = s.Recv()
			require.NoError(t, err)
		}
		_, err = s.Recv()
		require.Equal(t, io.EOF, err)
	},
	"both ways": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, _ func()) {
		s, err := c.FullDuplexCall(ctx)
		require.NoError(t, err)
		require.NoError(t, s.Send(&testgrpc.StreamingOutputCallRequest{}))
		_, err = s.Recv()
		require.NoError(t, err)
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		require.Equal(t, io.EOF, err)
	},
	"given up": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, cancel func()) {
		_, err := c.FullDuplexCall(ctx)
		require.NoError(t, err)
		cancel()
	},
	"unimplemented": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, _ func()) {
		s, err := c.HalfDuplexCall(ctx)
		require.NoError(t, err)
		_, err = s.Recv()
		require.Equal(t, codes.Unimplemented, status.Code(err))
	},
	"never begun": func(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient, cancel func()) {
		cancel()
		_, err := c.FullDuplexCall(ctx)
		require.Error(t, err)
	},
}

func TestAStreamCountsUntilItEndsHoweverItEnds(t *testing.T) {
	t.Parallel()
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := listen(t)
			serve(t, ln, &tester{})
			p := newPool(t, ln.Addr().String(), 2, PoolConfig{})
			held, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, p.Stat().InFlight)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream(t, ctx, testgrpc.NewTestServiceClient(p), cancel)
			require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 1 }), "%+v", p.Stat())
			require.NoError(t, held.CloseSend())
			_, err = held.Recv()
			require.Equal(t, io.EOF, err)
			assert.Zero(t, p.Stat().InFlight)
		})
	}
}

// An interceptor that makes something of its own of a stream, or none at all.
func TestInterceptorsDoNotConfuseTheCount(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	for name, between := range map[string]grpc.StreamClientInterceptor{
		"drops the options": func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			return next(ctx, desc, cc, method)
		},
		"begins two": func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			first, cancel := context.WithCancel(ctx)
			defer cancel()
			if _, err := next(first, desc, cc, method, opts...); err != nil {
				return nil, err
			}
			return next(ctx, desc, cc, method, opts...)
		},
		"refuses": func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, status.Error(codes.PermissionDenied, "no")
		},
	} {
		p := newPool(t, ln.Addr().String(), 1, PoolConfig{}, grpc.WithStreamInterceptor(between))
		ctx, cancel := context.WithCancel(t.Context())
		_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
		if err == nil {
			assert.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 1 }), name)
		}
		cancel()
		assert.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 0 }), name)
	}
}

func TestAnOldConnectionIsReplacedAndLosesNoStream(t *testing.T) {
	t.Parallel()
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		outlives(t, nil, nil)
	})
	t.Run("mutual TLS", func(t *testing.T) {
		t.Parallel()
		outlives(t, []grpc.ServerOption{grpc.Creds(serverTLS(true))}, []grpc.DialOption{grpc.WithTransportCredentials(clientTLS(true))})
	})
}

// outlives has a call of each kind begin before its connection is replaced, and
// end after that.
func outlives(t *testing.T, server []grpc.ServerOption, client []grpc.DialOption) {
	s := &tester{block: make(chan struct{}), began: make(chan struct{}, 1)}
	ln := listen(t)
	serve(t, ln, s, server...)
	told, trace := newTraced()
	begun := make(chan struct{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{
		MaxConnLifetime: 300 * time.Millisecond, MaxConnLifetimeJitter: -1, Trace: trace,
		Config: dialingOnce(t, func(ctx context.Context) error { return opened(ctx, begun) }), // till all are in flight
	}, client...)
	c := testgrpc.NewTestServiceClient(p)

	in, err := c.StreamingInputCall(t.Context())
	require.NoError(t, err)
	out, err := c.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{ResponseParameters: make([]*testgrpc.ResponseParameters, 3)})
	require.NoError(t, err)
	both, err := c.FullDuplexCall(t.Context())
	require.NoError(t, err)
	unary := after(func() error { return waiting(t.Context(), p) })
	within(t, s.began, 5*time.Second)
	_, err = out.Recv()
	require.NoError(t, err)
	talk := func() {
		require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
		_, err = both.Recv()
		require.NoError(t, err)
		require.NoError(t, in.Send(&testgrpc.StreamingInputCallRequest{}))
	}
	talk()
	close(begun)
	r := within(t, told.replaced, 5*time.Second)
	assert.False(t, r.Silent)
	assert.Equal(t, 4, r.InFlight)
	assert.GreaterOrEqual(t, r.Age, 300*time.Millisecond)
	assert.True(t, eventually(5*time.Second, func() bool { return p.Stat().Draining == 1 }), "a new one has no calls, and ends at once when it is old, too")
	talk() // on the old one
	_, err = call(t.Context(), p)
	require.NoError(t, err)

	close(s.block)
	require.NoError(t, within(t, unary, 5*time.Second))
	for range 2 {
		_, err = out.Recv()
		require.NoError(t, err)
	}
	_, err = out.Recv()
	require.Equal(t, io.EOF, err)
	res, err := in.CloseAndRecv()
	require.NoError(t, err)
	assert.EqualValues(t, 2, res.AggregatedPayloadSize)
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.Equal(t, io.EOF, err)
	within(t, told.drained, 5*time.Second)
	assert.True(t, eventually(5*time.Second, func() bool { return p.Stat().Draining == 0 }), "the old one is closed after its last call")
	assert.Zero(t, p.Stat().InFlight)
}

// The pool is busy while its connections are replaced all the time.
func TestNoCallFailsForTheSakeOfAge(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	p := newPool(t, ln.Addr().String(), 3, PoolConfig{MaxConnLifetime: 60 * time.Millisecond, MaxConnLifetimeJitter: 40 * time.Millisecond, Trace: trace})
	end := time.Now().Add(time.Second)
	goOn := func() bool {
		now := time.Now()
		return now.Before(end) || len(told.replaced) <= 20 && now.Before(end.Add(20*time.Second))
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := testgrpc.NewTestServiceClient(p)
			for goOn() {
				if i%2 == 0 {
					_, err := call(t.Context(), p)
					assert.NoError(t, err)
					continue
				}
				s, err := c.FullDuplexCall(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				for range 5 {
					assert.NoError(t, s.Send(&testgrpc.StreamingOutputCallRequest{}))
					_, err := s.Recv()
					assert.NoError(t, err)
				}
				assert.NoError(t, s.CloseSend())
				_, err = s.Recv()
				assert.Equal(t, io.EOF, err)
			}
		})
	}
	wg.Wait()
	assert.Greater(t, len(told.replaced), 20)
	assert.Zero(t, p.Stat().InFlight)
}

// An old connection goes on while there is no new one.
func TestAConnectionStaysWhileNoOtherCanBeOpened(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{
		MaxConnLifetime: 300 * time.Millisecond, Trace: trace,
		Config: dialingOnce(t, func(context.Context) error { return errors.New("refused") }),
	})
	both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.True(t, eventually(5*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return (*p.conns.Load())[0].old
	}))
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = both.Recv()
	require.NoError(t, err)
	_, err = call(t.Context(), p)
	require.NoError(t, err)
	assert.Empty(t, told.replaced)
	require.NoError(t, both.CloseSend())
}

func TestCloseWaitsForCallsAndThenCutsThemOff(t *testing.T) {
	t.Parallel()
	s := &tester{block: make(chan struct{}), began: make(chan struct{}, 1)}
	ln := listen(t)
	serve(t, ln, s)
	p, err := NewPool(ln.Addr().String(), 2, PoolConfig{}, insecurely())
	require.NoError(t, err)
	asked := after(func() error { return waiting(t.Context(), p) })
	within(t, s.began, 5*time.Second)
	closed := after(func() error { return p.Close(context.Background()) })
	require.True(t, eventually(5*time.Second, func() bool { _, err := call(t.Context(), p); return err != nil }))
	_, err = call(t.Context(), p)
	assert.ErrorIs(t, err, ErrClosed)
	assert.Equal(t, codes.Canceled, status.Code(err))
	_, err = testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	assert.ErrorIs(t, err, ErrClosed)
	assert.Empty(t, closed)
	close(s.block)
	assert.NoError(t, within(t, asked, 5*time.Second))
	assert.NoError(t, within(t, closed, 5*time.Second))
	assert.NoError(t, p.Close(context.Background()))
	assert.Zero(t, p.Stat().Conns)

	p, err = NewPool(ln.Addr().String(), 2, PoolConfig{}, insecurely())
	require.NoError(t, err)
	both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = p.Close(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "with calls in flight")
	_, err = both.Recv()
	assert.Contains(t, []codes.Code{codes.Canceled, codes.Unavailable}, status.Code(err), "%v", err)
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 0 }))
}

// A connection is taken out of service between a call's choice of it and its first
// step on it.
func TestACallDoesNotBeginOnAConnectionThatWasReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{})
	chosen := p.choose(wish{}).conn
	require.NotNil(t, chosen)
	c, err := p.newConn(0)
	require.NoError(t, err)
	p.mu.Lock()
	p.swap(chosen, c)
	chosen.announced = true
	p.mu.Unlock()
	assert.False(t, p.hold(chosen))
	assert.True(t, eventually(5*time.Second, func() bool { return p.Stat().Draining == 0 }), "who gave it up has seen it closed")
	assert.Same(t, c, p.choose(wish{}).conn)
	require.True(t, p.hold(c))
	p.release(c)
}
