package grpcclient

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The first of two servers loses its power. The second's address is known from
// the beginning, or found when gRPC asks the resolver again.
func TestWhenAServerIsGoneCallsMoveToTheNext(t *testing.T) {
	t.Parallel()
	inAllCases(t, "known before: %v, with a call in flight: %v", serverGone)
}

func serverGone(t *testing.T, known, busy bool) {
	l := newLab(t, netlab.Config{Servers: 2})
	first := resolver.Address{Addr: l.Servers[0].Addr(labPort)}
	second := resolver.Address{Addr: l.Servers[1].Addr(labPort)}
	r := manual.NewBuilderWithScheme("lab")
	if known {
		r.InitialState(resolver.State{Addresses: []resolver.Address{first, second}})
	} else {
		r.InitialState(resolver.State{Addresses: []resolver.Address{first}})
		r.ResolveNowCallback = func(resolver.ResolveNowOptions) {
			go r.UpdateState(resolver.State{Addresses: []resolver.Address{second}})
		}
	}
	cc := l.connected(t, "lab:///any", grpc.WithResolvers(r))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	asked := make(<-chan error)
	if busy {
		asked = after(func() error { return waiting(ctx, cc) })
		within(t, l.srv.began, 5*time.Second)
	}
	lost := time.Now()
	l.Servers[0].Drop()
	o := inTurn(t, cc, lost, 20)
	t.Log(o)
	assert.Equal(t, "server1", o.who)
	assert.LessOrEqual(t, len(o.failed), 2)
	assert.LessOrEqual(t, o.first, l.limit(lost, 7*time.Second))
	if busy {
		require.Error(t, within(t, asked, 30*time.Second))
	}
}

// pooled returns a pool of n connections, each of which has served a call.
func (l *lab) pooled(t *testing.T, n int, trace *Trace) *Pool {
	t.Helper()
	p := newPool(t, l.target(), n, PoolConfig{Config: l.cfg, Trace: trace})
	for _, c := range *p.conns.Load() {
		_, err := call(t.Context(), c.cc)
		require.NoError(t, err)
	}
	ready(t, p, n)
	return p
}

// forgotten returns a pool of n connections whose flows the router has just
// forgotten, a second or more after their peers were heard, their answers to the
// kernel's keep-alive included: who was heard less than that ago can't be asked.
func (l *lab) forgotten(t *testing.T, n int, trace *Trace) (p *Pool, lost time.Time) {
	t.Helper()
	for range 10 {
		p := l.pooled(t, n, trace)
		require.True(t, eventually(20*time.Second, func() bool { return heard(p) > askable+50*time.Millisecond }))
		lost := time.Now()
		l.ForgetNAT()
		if heard(p) > askable {
			return p, lost
		}
		require.NoError(t, p.Close(t.Context()))
	}
	require.Fail(t, "the machine is too slow")
	return nil, time.Time{}
}

// heard is how long ago any of the pool's peers was heard.
func heard(p *Pool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := time.Hour
	for _, c := range p.all() {
		for w := range c.sockets {
			if ago, ok := w.Heard(); ok {
				least = min(least, ago)
			}
		}
	}
	return least
}

func TestAPoolWhoseFlowsAreLostWhileIdleFailsNoCallOnceItIsSuspect(t *testing.T) {
	t.Parallel()
	const n = 3
	l := newLab(t, netlab.Config{NAT: true})
	told, trace := newTraced()
	p, lost := l.forgotten(t, n, trace)
	r := within(t, told.replaced, 10*time.Second)
	assert.True(t, r.Silent)
	t.Logf("replaced %d ms after the loss", time.Since(lost).Milliseconds())
	assert.LessOrEqual(t, time.Since(lost), l.limit(lost, labFresh+time.Second))
	o := inTurn(t, p, time.Now(), 40)
	t.Log(o, fmt.Sprintf("%+v", p.Stat()))
	assert.Empty(t, o.failed)
	assert.Less(t, o.first, l.limit(lost, 500*time.Millisecond), "nobody waits for what is silent")
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Suspect == 0 }))
}

// One connection is silent; its siblings, of which nobody knows anything yet, are
// asked before they are used.
func TestTheSiblingsOfASuspectAreAskedBeforeTheyGetCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{NAT: true})
	p, lost := l.forgotten(t, 3, nil)
	asked := after(func() error { return waitingFor(t.Context(), p, 20*time.Second) })
	require.True(t, eventually(5*time.Second, func() bool { s := p.Stat(); return s.Suspect+int(s.ReplacedSuspect) > 0 }))
	suspect := time.Since(lost)
	o := inTurn(t, p, time.Now(), 20)
	t.Logf("suspect %d ms after the loss; %v; %+v", suspect.Milliseconds(), o, p.Stat())
	assert.Empty(t, o.failed)
	assert.Less(t, o.first, l.limit(lost, time.Second))
	require.Error(t, within(t, asked, 20*time.Second))
}

// A call notices the loss before the guard would have asked: it is lost, but those
// after it are not sent on its connection, nor on its siblings.
func TestOfAPoolWhoseFlowsAreLostOnlyCallsOfTheFirstMomentFail(t *testing.T) {
	t.Parallel()
	const n = 3
	l := newLab(t, netlab.Config{NAT: true})
	p := l.pooled(t, n, nil)
	lost := time.Now()
	l.ForgetNAT()
	var mu sync.Mutex
	var lastFailed, slowest time.Duration // from the loss to the begin of a call that failed; after a second, of any
	var calls, failed int
	var wg sync.WaitGroup
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for time.Since(lost) < 4*time.Second {
		wg.Go(func() {
			begun := time.Now()
			_, err := call(t.Context(), p)
			mu.Lock()
			defer mu.Unlock()
			calls++
			if err != nil {
				failed++
				lastFailed = max(lastFailed, begun.Sub(lost))
			} else if begun.Sub(lost) > time.Second {
				slowest = max(slowest, time.Since(begun))
			}
		})
		<-pace.C
	}
	wg.Wait()
	t.Logf("%d calls, %d failed, the last of them begun %d ms after the loss; the slowest of later ones took %d ms; %+v",
		calls, failed, lastFailed.Milliseconds(), slowest.Milliseconds(), p.Stat())
	assert.LessOrEqual(t, lastFailed, l.limit(lost, 2*time.Second))
}

// The path recovers before anybody is given up, and long before that: this process
// may stand still when it should.
func TestAShortOutageFailsNoCallOfAPool(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{})
	p := l.pooled(t, 2, nil)
	l.Drop()
	began := time.Now()
	var asked []<-chan error
	for i := range 10 {
		passes(began, time.Duration(i)*150*time.Millisecond)
		asked = append(asked, after(func() error { _, err := call(t.Context(), p); return err }))
	}
	passes(began, 2*time.Second)
	l.Heal()
	for _, ch := range asked {
		assert.NoError(t, within(t, ch, 10*time.Second))
	}
	t.Logf("%+v", p.Stat())
	require.True(t, eventually(5*time.Second, func() bool { s := p.Stat(); return s.Suspect == 0 && s.InFlight == 0 && s.Draining == 0 }), "%+v", p.Stat())
}

// Nobody passes a verdict any more: calls don't wait for one for ever.
func TestAPoolWhoseGuardIsClosedGoesOn(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{})
	p := l.pooled(t, 2, nil)
	l.Drop()
	require.True(t, eventually(10*time.Second, func() bool { return p.Stat().Suspect == 2 }))
	require.NoError(t, l.cfg.Dialer.Guard().Close())
	l.Heal()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err := call(short, p)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	_, err = testgrpc.NewTestServiceClient(p).UnaryCall(ctx, &testgrpc.SimpleRequest{})
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Since(begun), l.limit(begun, labWithin+3*time.Second))
}

func waitingFor(ctx context.Context, cc grpc.ClientConnInterface, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return waiting(ctx, cc)
}

// inTurns gives each ClientConn the next one of some addresses.
type inTurns struct {
	addrs []resolver.Address
	next  *atomic.Int32
}

func (r inTurns) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	i := int(r.next.Add(1)-1) % len(r.addrs)
	return inTurns{}, cc.UpdateState(resolver.State{Addresses: r.addrs[i : i+1]})
}
func (inTurns) Scheme() string                        { return "turns" }
func (inTurns) ResolveNow(resolver.ResolveNowOptions) {}
func (inTurns) Close()                                {}

// All are asked whether they live, and one answers before the other's time is up.
func TestACallDoesNotWaitForTheAnswersOfAllConnections(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{Servers: 2})
	r := inTurns{[]resolver.Address{{Addr: l.Servers[0].Addr(labPort)}, {Addr: l.Servers[1].Addr(labPort)}}, &atomic.Int32{}}
	p := newPool(t, "turns:///any", 2, PoolConfig{Config: l.cfg}, grpc.WithResolvers(r))
	conns := *p.conns.Load()
	for _, c := range conns {
		_, err := call(t.Context(), c.cc)
		require.NoError(t, err)
	}
	gone, err := net.Dial("tcp", listen(t).Addr().String()) // a socket that gRPC has closed
	require.NoError(t, err)
	w, err := l.cfg.Dialer.Guard().Watch(gone, nil, nil)
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	p.mu.Lock()
	conns[1].sockets[w] = gone
	p.mu.Unlock()
	passes(time.Now(), 1200*time.Millisecond) // who was heard less than a second ago isn't asked
	l.Servers[0].Drop()
	p.mu.Lock()
	p.doubt()
	begun := time.Now()
	p.mu.Unlock()
	c, err := p.acquire(t.Context(), false)
	require.NoError(t, err)
	known, took := conns[0].suspect.Load(), time.Since(begun)
	assert.Same(t, conns[1], c)
	p.release(c)
	require.True(t, eventually(5*time.Second, conns[0].suspect.Load))
	t.Logf("after %v, the other is suspect after %v", took, time.Since(begun))
	if l.clock.Lost(begun) < 50*time.Millisecond {
		assert.False(t, known, "it has waited for the other's answer, too")
	}
}

// A call that waits for a connection is not sent on one that has just died, before
// gRPC has noticed that.
func TestACallThatWaitsWhileAllConnectionsDieIsNotLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{})
	p := l.pooled(t, 3, nil)
	l.Drop()
	require.True(t, eventually(20*time.Second, func() bool { return p.Stat().Suspect == 3 }))
	var asked []<-chan error
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	for range 50 {
		asked = append(asked, after(func() error {
			_, err := testgrpc.NewTestServiceClient(p).UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.WaitForReady(true))
			return err
		}))
	}
	require.True(t, eventually(20*time.Second, func() bool { return p.Stat().Ready == 0 }))
	assert.True(t, eventually(2*time.Second, func() bool { return p.Stat().Suspect == 0 }), "the connections that they were are closed: %+v", p.Stat())
	l.Heal()
	for _, ch := range asked {
		assert.NoError(t, within(t, ch, 30*time.Second))
	}
}
