package grpcclient

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

func TestWhatIsInFlightWhenMaxConnDrainIsOverIsCutOff(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]grpc.DialOption{
		"plain": nil,
		"retry policy": {grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &tester{block: make(chan struct{}), began: make(chan struct{}, 2)}
			ln := listen(t)
			serve(t, ln, s)
			told, trace := newTraced()
			goOn := make(chan struct{})
			letGo := sync.OnceFunc(func() { close(goOn) })
			defer letGo()
			trace.ConnReplaced = func(r ConnReplaced) {
				told.replaced <- r
				<-goOn // before that there is no end, so that this may take as long as it likes
			}
			p := newPool(t, ln.Addr().String(), 1, PoolConfig{MaxConnDrain: 300 * time.Millisecond, Trace: trace}, opts...)
			both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
			require.NoError(t, err)
			unary := after(func() error { return waiting(t.Context(), p) })
			within(t, s.began, 5*time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			cancelled := after(func() error { return waiting(ctx, p) })
			within(t, s.began, 5*time.Second)
			outlive(p, 0)
			assert.Equal(t, 3, within(t, told.replaced, 5*time.Second).InFlight)
			require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
			_, err = both.Recv()
			require.NoError(t, err, "it goes on")
			cancel()
			assert.Equal(t, codes.Canceled, status.Code(within(t, cancelled, 5*time.Second)), "by its caller")
			letGo()
			d := within(t, told.drained, 5*time.Second)
			assert.Equal(t, 2, d.CutOff)
			assert.GreaterOrEqual(t, d.Took, 300*time.Millisecond)
			_, err = both.Recv()
			assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			err = within(t, unary, 5*time.Second)
			assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			s2 := p.Stat()
			assert.Zero(t, s2.Draining)
			assert.Zero(t, s2.InFlight)
			_, err = call(t.Context(), p)
			assert.NoError(t, err)
		})
	}
}

func TestAConnectionThatDrainsInTimeCutsNothingOff(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"no limit": 0, "an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &tester{block: make(chan struct{}), began: make(chan struct{}, 1)}
			ln := listen(t)
			serve(t, ln, s)
			told, trace := newTraced()
			p := newPool(t, ln.Addr().String(), 1, PoolConfig{MaxConnDrain: limit, Trace: trace})
			unary := after(func() error { return waiting(t.Context(), p) })
			within(t, s.began, 5*time.Second)
			outlive(p, 0)
			within(t, told.replaced, 5*time.Second)
			close(s.block)
			require.NoError(t, within(t, unary, 5*time.Second))
			assert.Zero(t, within(t, told.drained, 5*time.Second).CutOff)
		})
	}
}

// The limit is over before the hook has heard of the replacement.
func TestADrainThatIsOverWhileTheHookRunsIsToldAfterwards(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	begun, end, drained := make(chan struct{}), make(chan struct{}), make(chan ConnDrained, 1)
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{MaxConnDrain: time.Millisecond, Trace: &Trace{
		ConnReplaced: func(ConnReplaced) { close(begun); <-end },
		ConnDrained:  func(d ConnDrained) { drained <- d },
	}})
	both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	old := (*p.conns.Load())[0]
	outlive(p, 0)
	within(t, begun, 5*time.Second)
	require.True(t, eventually(5*time.Second, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return old.overdue }))
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = both.Recv()
	require.NoError(t, err)
	close(end)
	assert.Equal(t, 1, within(t, drained, 5*time.Second).CutOff)
	_, err = both.Recv()
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

// Close has all the time in the world, the draining connection has not.
func TestADrainEndsWhileThePoolIsBeingClosed(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	p, err := NewPool(ln.Addr().String(), 1, PoolConfig{MaxConnDrain: 200 * time.Millisecond, Trace: trace}, insecurely())
	require.NoError(t, err)
	both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	outlive(p, 0)
	within(t, told.replaced, 5*time.Second)
	closed := after(func() error { return p.Close(context.Background()) })
	assert.NoError(t, within(t, closed, 5*time.Second))
	assert.Equal(t, 1, within(t, told.drained, 5*time.Second).CutOff)
	_, err = both.Recv()
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}

func TestMaxConnDrainIsChecked(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-1: "PoolConfig.MaxConnDrain is -1ns: use a millisecond or more, or zero to wait for all calls",
		30: "PoolConfig.MaxConnDrain is 30ns, less than a millisecond: was its unit forgotten?",
	} {
		_, err := NewPool("passthrough:///nowhere", 1, PoolConfig{MaxConnDrain: d}, insecurely())
		assert.ErrorContains(t, err, want)
	}
}

// The caller gives up on a call at the moment in which it is cut off.
func TestACallThatItsCallerCancelsIsCanceledThoughItIsCutOffToo(t *testing.T) {
	t.Parallel()
	c := &conn{}
	c.cut.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	canceled := status.Error(codes.Canceled, "")
	assert.Equal(t, codes.Unavailable, status.Code(c.verdict(ctx, canceled)))
	cancel()
	assert.Equal(t, codes.Canceled, status.Code(c.verdict(ctx, canceled)))
}

// An interceptor of the user's doesn't notice that its call was cut off.
func TestCloseDoesNotWaitForCallsThatMaxConnDrainHasCutOff(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]bool{"by the timer": false, "when the hook has ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, end := make(chan struct{}), make(chan struct{})
			hook := make(chan struct{})
			if !slow {
				close(hook)
			}
			p, err := NewPool("passthrough:///nowhere", 1, PoolConfig{
				MaxConnDrain: 100 * time.Millisecond,
				Trace:        &Trace{ConnReplaced: func(ConnReplaced) { <-hook }},
			}, insecurely(), grpc.WithUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
				close(began)
				<-end
				return nil
			}))
			require.NoError(t, err)
			asked := after(func() error { _, err := call(t.Context(), p); return err })
			within(t, began, 5*time.Second)
			old := (*p.conns.Load())[0]
			outlive(p, 0)
			require.True(t, eventually(5*time.Second, old.retired.Load))
			closed := after(func() error { return p.Close(context.Background()) })
			require.True(t, eventually(5*time.Second, p.closed.Load))
			if slow {
				require.True(t, eventually(5*time.Second, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return old.overdue }))
				close(hook)
			}
			assert.NoError(t, within(t, closed, 5*time.Second))
			close(end)
			assert.NoError(t, within(t, asked, 5*time.Second))
		})
	}
}
