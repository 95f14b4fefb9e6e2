package grpcclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// dialing makes a Config whose dialer asks a function first, with the number of
// the attempt, from 1.
func dialing(t *testing.T, before func(ctx context.Context, attempt int) error) Config {
	t.Helper()
	var attempts atomic.Int32
	d, err := dial.New(dial.Config{Trace: &dial.Trace{DialStart: func(ctx context.Context, _ dial.DialStart) context.Context {
		err := before(ctx, int(attempts.Add(1)))
		if err == nil {
			return ctx
		}
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(err)
		return ctx
	}}})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return Config{Dialer: d}
}

// dialingOnce is dialing for attempts after the first, which is left alone.
func dialingOnce(t *testing.T, before func(ctx context.Context) error) Config {
	t.Helper()
	return dialing(t, func(ctx context.Context, attempt int) error {
		if attempt == 1 {
			return nil
		}
		return before(ctx)
	})
}

// opened waits until attempts may go on.
func opened(ctx context.Context, open <-chan struct{}) error {
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The first connection is there, and there will be no second one.
func TestNoCallFailsOrWaitsForAConnectionThatIsNotThereWhileAnotherIs(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(ctx context.Context) error{
		"refused": func(context.Context) error { return errors.New("refused") },
		"silent":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := netlab.NewClock(t)
			ln := listen(t)
			serve(t, ln, &tester{})
			p := newPool(t, ln.Addr().String(), 3, PoolConfig{Config: dialingOnce(t, dial)})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
			require.NoError(t, err)
			ready(t, p, 1)
			for range 50 {
				ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
				_, err := call(ctx, p)
				cancel()
				require.NoError(t, err)
			}
			begun := time.Now()
			brief, cancelBrief := context.WithTimeout(ctx, 700*time.Millisecond)
			defer cancelBrief()
			_, err = testgrpc.NewTestServiceClient(p).FullDuplexCall(brief)
			if clock.Lost(begun) < 300*time.Millisecond {
				require.NoError(t, err, "who hasn't much time doesn't spend all of it")
			}
			begun = time.Now()
			for range 8 {
				_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
				require.NoError(t, err)
			}
			assert.Less(t, time.Since(begun), allowed(clock, begun, 2*maxOpening+3*time.Second), "they wait for each connection once")
		})
	}
}

// The first connection is there, and the others are silent.
func TestAStreamWaitsForAConnectionOfItsOwnOnce(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), 6, PoolConfig{Config: dialingOnce(t, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
	require.NoError(t, err)
	ready(t, p, 1)
	for _, c := range *p.conns.Load() { // many are no reason to wait for ever
		if c.cc.GetState() == connectivity.Ready {
			c.calls.Add(2 * unreadyCalls)
			defer c.calls.Add(-2 * unreadyCalls)
		}
	}
	begun := time.Now()
	_, err = testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Since(begun), allowed(clock, begun, 2*maxOpening))
}

func TestABurstOfCallsAtTheBeginningOpensAllConnections(t *testing.T) {
	t.Parallel()
	const n = 4
	s := &tester{block: make(chan struct{}), began: make(chan struct{}, n)}
	ln := listen(t)
	serve(t, ln, s)
	open := make(chan struct{})
	p := newPool(t, ln.Addr().String(), n, PoolConfig{Config: dialing(t, func(ctx context.Context, _ int) error { return opened(ctx, open) })})
	var calls sync.WaitGroup
	for i := range n { // in turn: of two that choose at the same moment neither knows of the other
		calls.Go(func() { assert.NoError(t, waiting(t.Context(), p)) })
		require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == i+1 }))
	}
	close(open)
	for range n {
		within(t, s.began, 5*time.Second)
	}
	ready(t, p, n)
	for _, c := range *p.conns.Load() {
		assert.EqualValues(t, 1, c.calls.Load())
	}
	close(s.block)
	calls.Wait()
}

// One connection could not be opened, the other is being opened.
func TestACallGoesToAConnectionThatIsBeingOpenedRatherThanToOneThatFailed(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	open := make(chan struct{})
	p := newPool(t, ln.Addr().String(), 2, PoolConfig{Config: dialing(t, func(ctx context.Context, attempt int) error {
		if attempt == 1 {
			return errors.New("refused")
		}
		return opened(ctx, open)
	})})
	_, err := call(t.Context(), p)
	require.ErrorContains(t, err, "refused")
	states := func() (n [5]int) {
		for _, c := range *p.conns.Load() {
			n[c.cc.GetState()]++
		}
		return n
	}
	require.True(t, eventually(5*time.Second, func() bool { return states()[connectivity.TransientFailure] == 1 }))
	first := after(func() error { _, err := call(t.Context(), p); return err })
	require.True(t, eventually(5*time.Second, func() bool { return states()[connectivity.Connecting] == 1 }))
	second := after(func() error { _, err := call(t.Context(), p); return err })
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().InFlight == 2 || len(second) > 0 }))
	close(open)
	assert.NoError(t, within(t, first, 5*time.Second))
	assert.NoError(t, within(t, second, 5*time.Second))
}

func TestAStreamPrefersAConnectionThatOpensSlowlyToOneThatFailed(t *testing.T) {
	t.Parallel()
	c := &conn{}
	ready := c.load(0, connectivity.Ready, wish{stream: true})
	failed := c.load(0, connectivity.TransientFailure, wish{stream: true})
	waited := c.load(0, connectivity.Connecting, wish{stream: true, waited: true})
	c.slow.Store(true)
	slow := c.load(0, connectivity.Connecting, wish{stream: true})
	assert.Equal(t, waited, slow)
	assert.Greater(t, slow, ready+1<<20)
	assert.Greater(t, failed, slow+1<<20)
}

// A connection has calls while the others are being opened; at some point it has
// too many for that.
func TestAConnectionThatIsNotOpenYetGetsCallsWhenTheOthersHaveMany(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), 2, PoolConfig{Config: dialingOnce(t, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})})
	_, err := call(t.Context(), p)
	require.NoError(t, err)
	ready(t, p, 1)
	var busy, other *conn
	for _, c := range *p.conns.Load() {
		if c.cc.GetState() == connectivity.Ready {
			busy = c
		} else {
			other = c
		}
	}
	for range unreadyCalls {
		c, err := p.acquire(t.Context(), false)
		require.NoError(t, err)
		require.Same(t, busy, c)
		defer p.release(c)
	}
	require.True(t, eventually(5*time.Second, func() bool { return other.cc.GetState() == connectivity.Connecting }), "it is opened meanwhile")
	for range 3 {
		c, err := p.acquire(t.Context(), false)
		require.NoError(t, err)
		defer p.release(c)
	}
	assert.GreaterOrEqual(t, other.calls.Load(), int64(1))
	assert.GreaterOrEqual(t, busy.calls.Load(), int64(unreadyCalls))
}

// A stream has waited for a connection in vain, and then that is opened after all.
func TestAConnectionThatIsOpenedLateGetsItsShareOfStreams(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	ln := listen(t)
	serve(t, ln, &tester{})
	open := make(chan struct{})
	p := newPool(t, ln.Addr().String(), 2, PoolConfig{Config: dialingOnce(t, func(ctx context.Context) error { return opened(ctx, open) })})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
		require.NoError(t, err)
		ready(t, p, 1)
	}
	slow := func() (n int) {
		for _, c := range *p.conns.Load() {
			if c.slow.Load() {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, slow())
	for _, c := range *p.conns.Load() { // a busy one is better than none
		if !c.slow.Load() {
			c.calls.Add(2 * unreadyCalls)
			begun := time.Now()
			for range 5 {
				got, err := p.acquire(t.Context(), true)
				require.NoError(t, err)
				assert.Same(t, c, got)
				p.release(got)
			}
			assert.Less(t, time.Since(begun), allowed(clock, begun, 3*maxOpening))
			c.calls.Add(-2 * unreadyCalls)
		}
	}
	close(open)
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Ready == 2 }))
	assert.Zero(t, slow(), "it may be waited for again")
	for range 3 {
		_, err := testgrpc.NewTestServiceClient(p).FullDuplexCall(ctx)
		require.NoError(t, err)
	}
	for _, c := range *p.conns.Load() {
		assert.EqualValues(t, 3, c.calls.Load())
	}
}

func TestACallThatWaitsForAReplacementGetsIt(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), 1, PoolConfig{})
	_, err := call(t.Context(), p)
	require.NoError(t, err)
	suspect := (*p.conns.Load())[0]
	suspect.suspect.Store(true)
	got := after(func() *conn {
		c, err := p.acquire(t.Context(), false)
		if assert.NoError(t, err) {
			p.release(c)
		}
		return c
	})
	assert.NotSame(t, suspect, within(t, got, 5*time.Second))
	assert.EqualValues(t, 1, p.Stat().Waited)
}

func TestACallThatWaitsEndsWhenThePoolIsClosed(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{})
	c := (*p.conns.Load())[0]
	c.suspect.Store(true)
	c.replacer = func() {} // as if it were being replaced
	got := after(func() error { _, err := p.acquire(t.Context(), false); return err })
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Waited == 1 }))
	require.NoError(t, p.Close(t.Context()))
	assert.ErrorIs(t, within(t, got, 5*time.Second), ErrClosed)
}

func TestASuspectGetsNoCallThoughTheOtherIsNotConnected(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	p := newPool(t, ln.Addr().String(), 2, PoolConfig{})
	suspect, other := (*p.conns.Load())[0], (*p.conns.Load())[1]
	_, err := call(t.Context(), suspect.cc)
	require.NoError(t, err)
	ready(t, p, 1)
	for _, mark := range []*atomic.Bool{&suspect.suspect, &suspect.doubted} {
		mark.Store(true)
		for range 20 {
			require.Same(t, other, p.choose(wish{}).conn)
			require.Same(t, other, p.choose(wish{stream: true}).conn)
		}
		assert.Same(t, suspect, p.choose(wish{suspects: true}).conn, "but when all else fails")
		mark.Store(false)
	}
}

func TestACallThatWaitsGetsAConnectionThatIsSuspectNoMore(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{})
	c := (*p.conns.Load())[0]
	c.suspect.Store(true)
	c.replacer = func() {} // as if it were being replaced
	got := after(func() *conn {
		c, err := p.acquire(t.Context(), false)
		if assert.NoError(t, err) {
			p.release(c)
		}
		return c
	})
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Waited == 1 }))
	c.told(nil) // by the guard
	assert.Same(t, c, within(t, got, 5*time.Second))
}

// The peer is known to be dead; gRPC, which would close the socket, isn't told.
func TestASuspectWhosePeerIsGivenUpIsSuspectUntilItsSocketIsClosed(t *testing.T) {
	t.Parallel()
	p := newPool(t, "passthrough:///nowhere", 1, PoolConfig{})
	c := (*p.conns.Load())[0]
	watched := func() net.Conn {
		ln := listen(t)
		defer ln.Close()
		socket, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		w, err := p.cfg.Config.Dialer.Guard().Watch(socket, nil, nil)
		require.NoError(t, err)
		require.NoError(t, peer.Close())
		require.True(t, eventually(5*time.Second, w.Dead))
		p.mu.Lock()
		defer p.mu.Unlock()
		c.sockets[w] = socket
		c.suspect.Store(true)
		return socket
	}
	socket := watched()
	c.replacer = func() {} // as if it were being replaced
	c.told(nil)
	assert.True(t, c.suspect.Load())
	require.NoError(t, socket.Close())
	c.told(nil)
	assert.False(t, c.suspect.Load())

	c.replacer = nil // it could not be
	socket = watched()
	defer socket.Close()
	c.told(nil)
	assert.False(t, c.suspect.Load(), "nobody would notice later")
}
