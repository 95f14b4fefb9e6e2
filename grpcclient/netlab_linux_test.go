package grpcclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/netlab/labdial"
)

const (
	labPort   = 8080
	labWithin = 5 * time.Second         // DetectWithin of the tests in labs
	labFresh  = 2500 * time.Millisecond // FreshFor, which follows
)

// lab is a network with a server, and what a test's client has to do with it.
type lab struct {
	*netlab.Lab
	cfg   Config
	clock *netlab.Clock
	srv   *tester

	mu       sync.Mutex
	dialed   int
	undialed []error // why, but for those that were canceled
}

// newLab makes a lab, with a server that answers on each of its hosts.
func newLab(t *testing.T, of netlab.Config) *lab {
	t.Helper()
	l := &lab{Lab: netlab.NewWith(t, of), clock: netlab.NewClock(t)}
	l.srv = &tester{name: "server0", block: make(chan struct{}), began: make(chan struct{}, 1)}
	for i, host := range l.Servers {
		s := l.srv
		if i > 0 {
			s = &tester{name: host.Name()}
		}
		serve(t, host.Listen(t, labPort), s)
	}
	guard, err := health.NewGuard(health.GuardConfig{Dial: l.Client.Dialer(nil)})
	require.NoError(t, err)
	t.Cleanup(func() { guard.Close() })
	d, err := dial.New(dial.Config{DetectWithin: labWithin, Guard: guard, Trace: dial.Join(labdial.From(l.Client), &dial.Trace{
		DialDone: func(_ context.Context, d dial.DialDone) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if d.Err == nil {
				l.dialed++
			} else if !errors.Is(d.Err, context.Canceled) {
				l.undialed = append(l.undialed, d.Err)
			}
		},
	})})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	l.cfg = Config{Dialer: d}
	return l
}

func (l *lab) target() string { return "passthrough:///" + l.Server.Addr(labPort) }

// connected returns a ClientConn that has served a call.
func (l *lab) connected(t *testing.T, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc := newClient(t, target, l.cfg, opts...)
	who, err := call(t.Context(), cc)
	require.NoError(t, err)
	require.Equal(t, "server0", who)
	return cc
}

// limit is how much time of this machine's something may take that began then.
func (l *lab) limit(since time.Time, within time.Duration) time.Duration {
	return allowed(l.clock, since, within)
}

// outcome is what came of calls one after another.
type outcome struct {
	calls  int
	failed []error
	first  time.Duration // until the first success
	who    string        // had it
}

func (o *outcome) String() string {
	s := fmt.Sprintf("%d calls, %d failed, first success after %d ms by %s", o.calls, len(o.failed), o.first.Milliseconds(), o.who)
	for _, err := range o.failed[:min(3, len(o.failed))] {
		s += "; " + err.Error()
	}
	return s
}

// inTurn makes calls one after another until n have succeeded.
func inTurn(t *testing.T, cc grpc.ClientConnInterface, since time.Time, n int) *outcome {
	t.Helper()
	o := &outcome{}
	for o.calls-len(o.failed) < n && time.Since(since) < time.Minute {
		who, err := call(t.Context(), cc)
		o.calls++
		if err != nil {
			o.failed = append(o.failed, err)
		} else if o.first == 0 {
			o.first, o.who = time.Since(since), who
		}
	}
	require.Equal(t, n, o.calls-len(o.failed), "%v", o)
	return o
}

// The router forgets the flow, and new ones work. By default 186 calls in a row
// fail then, for a quarter of an hour.
func TestAFlowThatIsLostWhileIdleIsFoundAndNoCallFailsAfterwards(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{NAT: true})
	cc := l.connected(t, l.target())
	require.True(t, eventually(5*time.Second, func() bool { return cc.GetState() == connectivity.Ready }))
	lost := time.Now()
	l.ForgetNAT()
	require.True(t, eventually(20*time.Second, func() bool { return cc.GetState() != connectivity.Ready }))
	severed := time.Since(lost)
	assert.LessOrEqual(t, severed, l.limit(lost, labFresh+3*time.Second))
	o := inTurn(t, cc, time.Now(), 40)
	t.Logf("severed %d ms after the loss; then %v", severed.Milliseconds(), o)
	assert.Empty(t, o.failed)
}

func TestACallInFlightWhenItsFlowIsLostFailsAndTheNextOnesDoNot(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{NAT: true})
	cc := l.connected(t, l.target())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	asked := after(func() error { return waiting(ctx, cc) })
	within(t, l.srv.began, 5*time.Second)
	lost := time.Now()
	l.ForgetNAT()
	o := inTurn(t, cc, lost, 40)
	require.Error(t, within(t, asked, 30*time.Second))
	t.Logf("the one in flight, and %v", o)
	if l.clock.Lost(lost) < 500*time.Millisecond { // otherwise the first one's time may have run out before that
		assert.LessOrEqual(t, len(o.failed)+1, 2)
	}
	assert.LessOrEqual(t, o.first, l.limit(lost, 7*time.Second))
}

// inAllCases runs a test beside itself, with either of two things so or not.
func inAllCases(t *testing.T, name string, test func(t *testing.T, a, b bool)) {
	tests := map[string]func(*testing.T){}
	for _, a := range []bool{true, false} {
		for _, b := range []bool{true, false} {
			tests[fmt.Sprintf(name, a, b)] = func(t *testing.T) { test(t, a, b) }
		}
	}
	together(t, tests)
}

func TestAfterAnOutageTheFirstCallSucceedsWithinASecond(t *testing.T) {
	t.Parallel()
	inAllCases(t, "idle meanwhile: %v, wait for ready: %v", outage)
}

func outage(t *testing.T, idle, wait bool) {
	lasts := 9 * time.Second
	if *aMinute {
		lasts = time.Minute
	}
	l := newLab(t, netlab.Config{})
	cc := l.connected(t, l.target())
	l.Drop()
	began := time.Now()
	var meanwhile, failed int
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for time.Since(began) < lasts {
		if idle {
			passes(began, lasts)
			break
		}
		ctx, cancel := context.WithTimeout(t.Context(), min(5*time.Second, time.Until(began.Add(lasts))))
		_, err := call(ctx, cc)
		cancel()
		if meanwhile++; err != nil {
			failed++
		}
		<-pace.C
	}
	l.Heal()
	healed := time.Now()
	after := 0
	for {
		_, err := call(t.Context(), cc, grpc.WaitForReady(wait))
		if err == nil {
			break
		}
		after++
		require.Less(t, time.Since(healed), 20*time.Second)
		<-pace.C
	}
	took := time.Since(healed)
	t.Logf("in %v %d calls, of which %d failed; first success %d ms after the heal, %d failed before it", lasts, meanwhile, failed, took.Milliseconds(), after)
	assert.LessOrEqual(t, took, l.limit(healed, time.Second))
}

// On a path that is slower than fresh SYNs come, these reach the server's kernel
// but never its program, and no failed dial is told of.
func TestOnASlowPathTheServerAcceptsOneConnection(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, rtt := range []time.Duration{300 * time.Millisecond, 560 * time.Millisecond, 700 * time.Millisecond, 900 * time.Millisecond} {
		tests[rtt.String()] = func(t *testing.T) {
			l := newLab(t, netlab.Config{})
			var accepted atomic.Int32
			serve(t, counting{l.Server.Listen(t, labPort+1), &accepted}, l.srv)
			l.Delay(rtt/2, 0)
			patiently := func(port int) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				cc := newClient(t, "passthrough:///"+l.Server.Addr(port), l.cfg)
				_, err := testgrpc.NewTestServiceClient(cc).UnaryCall(ctx, &testgrpc.SimpleRequest{})
				require.NoError(t, err)
			}
			patiently(labPort) // so that no SYN waits for another answer than its own
			begun := time.Now()
			patiently(labPort + 1)
			if l.clock.Lost(begun) < 300*time.Millisecond { // otherwise it may have taken up the first answer after the second one
				assert.EqualValues(t, 1, accepted.Load())
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			assert.Empty(t, l.undialed)
		}
	}
	together(t, tests)
}

type counting struct {
	net.Listener
	n *atomic.Int32
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func TestInAnOutageAnAttemptToConnectIsOneFailedDial(t *testing.T) {
	t.Parallel()
	l := newLab(t, netlab.Config{})
	l.Drop()
	begun := time.Now()
	_, err := call(t.Context(), newClient(t, l.target(), l.cfg))
	require.Error(t, err)
	require.True(t, eventually(l.limit(begun, labWithin+time.Second), func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.undialed) > 0 }))
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(t, l.undialed, 1)
	var timeout net.Error // the dialer's, or the kernel's at the same moment
	require.ErrorAs(t, l.undialed[0], &timeout)
	assert.True(t, timeout.Timeout(), "%v", timeout)
	assert.ErrorContains(t, l.undialed[0], l.Server.Addr(labPort))
}
