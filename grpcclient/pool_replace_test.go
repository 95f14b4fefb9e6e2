package grpcclient

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// bundle is credentials that run a function whenever a ClientConn is made of
// them; if it returns false they are none.
type bundle struct {
	credentials.Bundle
	made func() bool
}

func (b bundle) TransportCredentials() credentials.TransportCredentials {
	if !b.made() {
		return nil
	}
	return insecure.NewCredentials()
}
func (bundle) PerRPCCredentials() credentials.PerRPCCredentials { return nil }

func TestAPoolThatCannotBeMadeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	made := 0
	_, err := NewPool("passthrough:///nowhere", 3, PoolConfig{MaxConnLifetime: time.Millisecond, MaxConnLifetimeJitter: -1},
		grpc.WithCredentialsBundle(bundle{made: func() bool {
			made++
			if made > 2 {
				<-time.After(50 * time.Millisecond) // the first ones become old
			}
			return made <= 2
		}}))
	require.Error(t, err)
}

func TestUserCodeMayUseThePoolWhileAConnectionIsMade(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	var pool atomic.Pointer[Pool]
	told, trace := newTraced()
	p, err := NewPool(ln.Addr().String(), 1, PoolConfig{Trace: trace}, grpc.WithCredentialsBundle(bundle{made: func() bool {
		if p := pool.Load(); p != nil {
			p.Stat()
		}
		return true
	}}))
	require.NoError(t, err)
	_, err = call(t.Context(), p)
	require.NoError(t, err)
	pool.Store(p)
	outlive(p, 0)
	within(t, told.replaced, 5*time.Second)
	require.NoError(t, p.Close(t.Context()))
}

// A connection can't be made when it is time for it, but later it can.
func TestAReplacementThatCannotBeMadeIsMadeLater(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	var bad, wasBad atomic.Bool
	p, err := NewPool(ln.Addr().String(), 1, PoolConfig{MaxConnLifetime: 300 * time.Millisecond, Trace: trace},
		grpc.WithCredentialsBundle(bundle{made: func() bool {
			if bad.CompareAndSwap(true, false) {
				wasBad.Store(true)
				return false
			}
			return true
		}}))
	require.NoError(t, err)
	held, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	bad.Store(true)
	require.True(t, eventually(5*time.Second, wasBad.Load))
	for range len(told.replaced) { // it was old before that already
		<-told.replaced
	}
	within(t, told.replaced, 5*time.Second)
	require.NoError(t, held.CloseSend())
	_, err = held.Recv()
	require.Equal(t, io.EOF, err)
	require.NoError(t, p.Close(t.Context()))
}

// What is not connected is not old: there is nothing to replace.
func TestConnectionsThatAreNotConnectedAreNotReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := NewPool("passthrough:///nowhere", 3, PoolConfig{}, insecurely())
		require.NoError(t, err)
		before := *p.conns.Load()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		assert.Zero(t, p.Stat().ReplacedOld)
		assert.Equal(t, before, *p.conns.Load())
		require.NoError(t, p.Close(t.Context()))
	})
}

func TestTheCallersOptionsAreItsOwn(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	opts := []grpc.DialOption{insecurely()}
	p, err := NewPool(ln.Addr().String(), 1, PoolConfig{Trace: trace}, opts...)
	require.NoError(t, err)
	_, err = call(t.Context(), p)
	require.NoError(t, err)
	opts[0] = grpc.WithTransportCredentials(nil)
	outlive(p, 0)
	within(t, told.replaced, 5*time.Second)
	require.NoError(t, p.Close(t.Context()))
}

// A connection is suspect, cleared of that, and suspect again, before its
// replacement has noticed.
func TestAConnectionThatIsSuspectAgainIsReplaced(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	told, trace := newTraced()
	open, dialed := make(chan struct{}), make(chan struct{}, 10)
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{Trace: trace, Config: dialing(t, func(ctx context.Context, attempt int) error {
		if attempt == 1 {
			return nil
		}
		dialed <- struct{}{}
		return opened(ctx, open)
	})})
	_, err := call(t.Context(), p)
	require.NoError(t, err)
	c := (*p.conns.Load())[0]
	p.mu.Lock()
	c.suspect.Store(true)
	p.replace(c)
	p.mu.Unlock()
	within(t, dialed, 5*time.Second)
	p.mu.Lock()
	c.suspect.Store(false)
	c.replacer()
	c.suspect.Store(true)
	p.replace(c)
	p.mu.Unlock()
	close(open)
	assert.True(t, within(t, told.replaced, 5*time.Second).Silent)
}

// The last call ends while the hook is still running.
func TestADrainIsToldAfterTheReplacement(t *testing.T) {
	t.Parallel()
	s := &tester{block: make(chan struct{}), began: make(chan struct{}, 1)}
	ln := listen(t)
	serve(t, ln, s)
	begun, end, drained := make(chan struct{}), make(chan struct{}), make(chan struct{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{Trace: &Trace{
		ConnReplaced: func(ConnReplaced) { close(begun); <-end },
		ConnDrained:  func(ConnDrained) { close(drained) },
	}})
	asked := after(func() error { return waiting(t.Context(), p) })
	within(t, s.began, 5*time.Second)
	outlive(p, 0)
	within(t, begun, 5*time.Second)
	close(s.block)
	require.NoError(t, within(t, asked, 5*time.Second))
	select {
	case <-drained:
		assert.Fail(t, "too early")
	case <-time.After(50 * time.Millisecond):
	}
	close(end)
	within(t, drained, 5*time.Second)
}

// A connection is told of a socket after its end.
func TestNoSocketIsWatchedForAConnectionThatHasEnded(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{})
	c, err := p.newConn(0)
	require.NoError(t, err)
	p.mu.Lock()
	c.stop()
	p.mu.Unlock()
	require.NoError(t, c.cc.Close())
	socket, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer socket.Close()
	c.opened(socket)
	assert.Empty(t, c.sockets)
}

func TestOfSeveralClosesTheLeastPatientDecides(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	p, err := NewPool(ln.Addr().String(), 2, PoolConfig{}, insecurely())
	require.NoError(t, err)
	both, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	patient := after(func() error { return p.Close(context.Background()) })
	require.True(t, eventually(5*time.Second, p.closed.Load))
	ctx, cancel := context.WithCancel(t.Context())
	second := after(func() error { return p.Close(ctx) })
	select {
	case <-second:
		require.Fail(t, "a call is in flight still")
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	assert.ErrorIs(t, within(t, second, 5*time.Second), context.Canceled)
	_, err = both.Recv()
	assert.Contains(t, []codes.Code{codes.Canceled, codes.Unavailable}, status.Code(err))
	assert.NoError(t, within(t, patient, 5*time.Second))
	assert.NoError(t, p.Close(ctx))
}

// lingering is a resolver that takes its time to end.
type lingering struct {
	address string
	end     chan struct{}
}

func (l lingering) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return l, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: l.address}}})
}
func (lingering) Scheme() string                        { return "lingering" }
func (lingering) ResolveNow(resolver.ResolveNowOptions) {}
func (l lingering) Close()                              { <-l.end }

func TestWhoeverReturnsFromCloseAllIsClosed(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	l := lingering{ln.Addr().String(), make(chan struct{})}
	p, err := NewPool("lingering:///", 1, PoolConfig{}, insecurely(), grpc.WithResolvers(l))
	require.NoError(t, err)
	_, err = testgrpc.NewTestServiceClient(p).FullDuplexCall(t.Context())
	require.NoError(t, err)
	patient := after(func() error { return p.Close(context.Background()) })
	require.True(t, eventually(5*time.Second, p.closed.Load))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	second := after(func() error { return p.Close(ctx) })
	within(t, p.idle, 5*time.Second) // the call was cut off
	select {
	case <-patient:
		assert.Fail(t, "the other is closing still")
	case <-time.After(50 * time.Millisecond):
	}
	close(l.end)
	assert.NoError(t, within(t, patient, 5*time.Second))
	assert.ErrorIs(t, within(t, second, 5*time.Second), context.Canceled)
}

// An interceptor of the user's doesn't notice that its call was cut off.
func TestWhoClosesDoesNotWaitForCallsThatAnotherHasCutOff(t *testing.T) {
	t.Parallel()
	began, end := make(chan struct{}), make(chan struct{})
	p, err := NewPool("passthrough:///nowhere", 1, PoolConfig{}, insecurely(),
		grpc.WithUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
			close(began)
			<-end
			return nil
		}))
	require.NoError(t, err)
	asked := after(func() error { _, err := call(t.Context(), p); return err })
	within(t, began, 5*time.Second)
	patient := after(func() error { return p.Close(context.Background()) })
	require.True(t, eventually(5*time.Second, p.closed.Load))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, p.Close(ctx), context.Canceled)
	assert.NoError(t, within(t, patient, 5*time.Second))
	close(end)
	assert.NoError(t, within(t, asked, 5*time.Second))
}

func TestManyMayCloseWhileCallsBegin(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	for range 20 {
		p, err := NewPool(ln.Addr().String(), 3, PoolConfig{MaxConnLifetime: 2 * time.Millisecond}, insecurely())
		require.NoError(t, err)
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var err error
				for err == nil {
					_, err = call(t.Context(), p)
				}
				assert.ErrorIs(t, err, ErrClosed)
			})
			wg.Go(func() {
				<-begin
				assert.NoError(t, p.Close(context.Background()))
				assert.Zero(t, p.Stat().InFlight)
			})
		}
		close(begin)
		wg.Wait()
	}
}

func TestAConnectionHasNoTimerThatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{MaxConnDrain: time.Hour})
	old := (*p.conns.Load())[0]
	c, err := p.newConn(0)
	require.NoError(t, err)
	require.True(t, p.hold(old))
	p.mu.Lock()
	age := old.timer
	p.swap(old, c)
	old.announced = true
	drain := old.timer
	p.mu.Unlock()
	assert.False(t, age.Stop(), "it was stopped")
	require.NotSame(t, age, drain)
	old.outlived() // it had begun already
	p.mu.Lock()
	assert.Same(t, drain, old.timer, "the limit of the drain is in force")
	p.mu.Unlock()
	p.release(old)
	assert.False(t, drain.Stop(), "it was stopped")
}
