package pool_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

const (
	guarded  = 20 // connections, and as many are allowed
	freshFor = detectWithin / 2

	// patient is what a caller has who must not fail. How long it takes is
	// measured, in time of this machine's, which may stand still for a while.
	patient = 30 * time.Second
)

// newGuarded is a pool of connections that were all used just now, in a lab
// whose server answers.
func newGuarded(t *testing.T, cfg netlab.Config, edit func(*netlab.Lab, *pool.Config[net.Conn])) (*netlab.Lab, labPool) {
	lab := netlab.NewWith(t, cfg)
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) {
		c.MaxConns, c.MaxConcurrentOpens = guarded, guarded
		if edit != nil {
			edit(lab, c)
		}
	})
	useAll(t, p)
	return lab, p
}

// useAll uses all connections of a pool.
func useAll(t *testing.T, p labPool) {
	t.Helper()
	held := make([]pool.Conn[net.Conn], guarded)
	for i := range held {
		held[i] = acquire(t, p.Pool)
	}
	for _, c := range held {
		require.NoError(t, echo(t.Context(), c.Value()))
		c.Release()
	}
}

// reboot takes the server's power away and starts it again.
func reboot(t *testing.T, lab *netlab.Lab) {
	lab.Server.Reboot()
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
}

// atOnce makes as many requests as there are connections, and returns how many
// failed and how long the slowest took of this machine's time.
func atOnce(p labPool, within time.Duration) (failed int64, slowest time.Duration) {
	var failures, longest atomic.Int64
	var wg sync.WaitGroup
	for range guarded {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			began := time.Now()
			if p.Do(ctx, echo) != nil {
				failures.Add(1)
			}
			for took := int64(p.since(began)); ; {
				if l := longest.Load(); took <= l || longest.CompareAndSwap(l, took) {
					return
				}
			}
		})
	}
	wg.Wait()
	return failures.Load(), time.Duration(longest.Load())
}

// oneByOne makes requests one after another, and returns how many failed and
// when the first one succeeded, in this machine's time.
func oneByOne(p labPool, n int, within time.Duration) (failed int, first time.Duration) {
	began := time.Now()
	for range n {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		if p.Do(ctx, echo) != nil {
			failed++
		} else if first == 0 {
			first = p.since(began)
		}
		cancel()
	}
	return failed, first
}

// limit is what may take so long on a machine that has time. On a busy one it
// takes more, as do requests when nothing is wrong.
func (p labPool) limit(within time.Duration) time.Duration {
	_, usual := atOnce(p, patient)
	return allowed(within) + 5*usual
}

// requireReplaced waits until none of the first connections is left.
func requireReplaced(t *testing.T, p labPool) {
	t.Helper()
	const within = 2*detectWithin + slack
	began, timeout := time.Now(), time.After(3*within)
	for i := range guarded {
		select {
		case c := <-p.closed:
			require.Contains(t, []pool.Reason{pool.ReasonDead, pool.ReasonSilent, pool.ReasonFailed}, c.Reason, "%v", c.Err)
		case <-timeout:
			t.Fatalf("%d of %d old connections are gone: %+v", i, guarded, p.Stat())
		}
	}
	require.Less(t, p.since(began), allowed(within))
}

// sideBySide runs f for each duration up to the last, all at once, however few
// processors there are.
func sideBySide(t *testing.T, last, step time.Duration, f func(*testing.T, time.Duration)) {
	var wg sync.WaitGroup
	for d := time.Duration(0); d <= last; d += step {
		wg.Go(func() { t.Run(d.String(), func(t *testing.T) { f(t, d) }) })
	}
	wg.Wait()
}

// patience is that of callers who come so long after a fault.
func patience(age time.Duration) time.Duration {
	if age >= freshFor {
		return patient
	}
	return 2 * time.Second
}

func TestARebootOfTheServerFailsNobodyAfterFreshFor(t *testing.T) {
	t.Parallel()
	sideBySide(t, freshFor, 500*time.Millisecond, func(t *testing.T, age time.Duration) {
		lab, p := newGuarded(t, netlab.Config{}, nil)
		time.Sleep(freshFor + 500*time.Millisecond - age) // not synchronisation: they are to be idle for so long
		reboot(t, lab)                                    // the server may be heard up to the middle of it
		time.Sleep(age)
		failed, slowest := atOnce(p, patience(age))
		t.Logf("rebooted %v before %d requests at once: %d failed, the slowest took %v", age, guarded, failed, slowest)
		if age >= freshFor {
			require.Zero(t, failed)
			require.Less(t, slowest, p.limit(100*time.Millisecond))
		}
		requireReplaced(t, p)
	})
}

func TestAForgottenFlowFailsOneRequestAtMost(t *testing.T) {
	t.Parallel()
	sideBySide(t, freshFor, 500*time.Millisecond, func(t *testing.T, age time.Duration) {
		lab, p := newGuarded(t, netlab.Config{NAT: true}, nil)
		time.Sleep(freshFor + 500*time.Millisecond - age)
		lab.ForgetNAT()
		time.Sleep(age)
		failed, first := oneByOne(p, 40, patience(age))
		t.Logf("forgotten %v before 40 requests one after another: %d failed, the first success came after %v", age, failed, first)
		require.LessOrEqual(t, failed, 1)
		if age >= freshFor {
			require.Zero(t, failed)
			require.Less(t, first, p.limit(500*time.Millisecond))
		}
		requireReplaced(t, p)
		require.LessOrEqual(t, p.Stat().Total, guarded)
	})
}

func TestAFlowForgottenUnderARequestFailsOnlyThat(t *testing.T) {
	t.Parallel()
	lab, p := newGuarded(t, netlab.Config{NAT: true}, nil)
	time.Sleep(freshFor + 500*time.Millisecond)
	sent, forgotten := make(chan bool), make(chan bool)
	inFlight := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		inFlight <- p.Do(ctx, func(ctx context.Context, c net.Conn) error {
			sent <- true
			<-forgotten
			return echo(ctx, c)
		})
	}()
	<-sent
	lab.ForgetNAT()
	close(forgotten)
	require.Error(t, <-inFlight)
	failed, first := oneByOne(p, 40, patient)
	t.Logf("after the one in flight %d failed, the first success came after %v", failed, first)
	require.Zero(t, failed)
	require.Less(t, first, p.limit(500*time.Millisecond))
	requireReplaced(t, p)
}

func TestThoseWhoWereNotHeardAreAskedAtCheckout(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for name, tc := range map[string]struct {
		fault  func(*testing.T, *netlab.Lab)
		within time.Duration
	}{
		"none":      {func(*testing.T, *netlab.Lab) {}, 100 * time.Millisecond},
		"reboot":    {reboot, 100 * time.Millisecond},
		"forgotten": {func(_ *testing.T, lab *netlab.Lab) { lab.ForgetNAT() }, 500 * time.Millisecond},
	} {
		run := func(t *testing.T) {
			lab, p := newUnheard(t)
			tc.fault(t, lab)
			time.Sleep(freshFor)
			failed, slowest := atOnce(p, patient)
			s := p.Stat()
			t.Logf("%d failed, the slowest took %v, %d were asked", failed, slowest, s.Asked)
			require.Zero(t, failed)
			require.Less(t, slowest, p.limit(tc.within))
			require.NotZero(t, s.Asked)
			require.LessOrEqual(t, s.Asked, int64(guarded), "none twice")
		}
		wg.Go(func() { t.Run(name, run) })
	}
	wg.Go(func() { t.Run("outage", askInAnOutage) })
	wg.Go(func() { t.Run("forgotten, one by one", askOneByOne) })
	wg.Wait()
}

func askOneByOne(t *testing.T) {
	lab, p := newUnheard(t)
	lab.ForgetNAT()
	time.Sleep(freshFor + 20*time.Millisecond) // the kernel's clock is coarse
	failed, first := oneByOne(p, 40, patient)
	s := p.Stat()
	t.Logf("%d failed, the first success came after %v, %d were asked", failed, first, s.Asked)
	require.Zero(t, failed)
	require.Less(t, first, p.limit(500*time.Millisecond), "one round for all")
	require.EqualValues(t, guarded, s.Asked)
	requireReplaced(t, p)
}

// newUnheard is a pool of connections that nobody keeps fresh, until a checkout
// wants one.
func newUnheard(t *testing.T) (*netlab.Lab, labPool) {
	lab, p := newGuarded(t, netlab.Config{}, func(lab *netlab.Lab, c *pool.Config[net.Conn]) {
		c.FreshFor = -1
		c.Open = func(ctx context.Context) (net.Conn, error) { // without keep-alive
			return lab.Client.Dial(ctx, (&net.Dialer{KeepAlive: -1}).DialContext, lab.Server.Addr(port))
		}
	})
	pool.AskAfter(p.Pool, freshFor)
	return lab, p
}

func askInAnOutage(t *testing.T) {
	lab, p := newUnheard(t)
	lab.Drop()
	time.Sleep(freshFor)
	began := time.Now()
	failed, slowest := atOnce(p, 20*time.Millisecond)
	s := p.Stat()
	if time.Since(began) > 150*time.Millisecond {
		t.Skip("this machine is too slow: who has to wait so long is given the slot of a suspect")
	}
	t.Logf("%d impatient callers failed after %v: %d idle, %d suspect", failed, slowest, s.Idle, s.Suspect)
	require.EqualValues(t, guarded, failed)
	require.Equal(t, guarded, s.Idle+s.Suspect, "they are given back as they were")
	require.Eventually(t, func() bool { return p.Stat().Suspect == guarded }, allowed(time.Second+slack), time.Millisecond, "but the question stands")
	lab.Heal()
	require.Eventually(t, func() bool { return p.Stat().Idle == guarded }, allowed(2*time.Second+slack), time.Millisecond, "%+v", p.Stat())
	failed, _ = atOnce(p, patient)
	require.Zero(t, failed)
	require.Zero(t, p.Stat().ClosedAll())
}

func TestAShortOutageCostsNoIdleConnection(t *testing.T) {
	t.Parallel()
	sideBySide(t, 1800*time.Millisecond, 200*time.Millisecond, func(t *testing.T, phase time.Duration) {
		var suspects atomic.Int64
		lab, p := newGuarded(t, netlab.Config{}, func(_ *netlab.Lab, c *pool.Config[net.Conn]) {
			c.Trace.ConnState = func(s health.StateChange) {
				if s.To == health.Suspect {
					suspects.Add(1)
				}
			}
		})
		time.Sleep(2*time.Second + phase)
		cut := time.Now()
		lab.Drop()
		time.Sleep(3 * time.Second) // not synchronisation: so long is the outage
		lab.Heal()
		healed := time.Now()
		if took := healed.Sub(cut); took > 3500*time.Millisecond {
			t.Skipf("this machine is too slow: the outage lasted %v", took)
		}
		require.Eventually(t, func() bool { return p.Stat().Idle == guarded }, 10*time.Second, time.Millisecond, "%+v", p.Stat())
		t.Logf("outage began %v after a use: %d suspicions, all well %v after the heal", 2*time.Second+phase, suspects.Load(), time.Since(healed))
		failed, _ := atOnce(p, patient)
		require.Zero(t, failed)
		useAll(t, p)
		require.EqualValues(t, guarded, p.Stat().Opened)
		require.Zero(t, p.Stat().ClosedAll())
	})
}

func TestAnOutageUnderCallersCostsOneConnection(t *testing.T) {
	t.Parallel()
	lab, p := newGuarded(t, netlab.Config{}, nil)
	time.Sleep(freshFor + 500*time.Millisecond)
	lab.Drop()
	time.Sleep(1500 * time.Millisecond) // DetectWithin must not be over at the heal
	var lost atomic.Int64
	time.AfterFunc(1000*time.Millisecond, func() {
		lost.Store(p.Stat().ClosedAll())
		lab.Heal()
	})
	failed, slowest := atOnce(p, 20*time.Second)
	t.Logf("%d failed, the slowest took %v; %d of %d connections were given up, %d of them before the heal",
		failed, slowest, p.Stat().ClosedAll(), guarded, lost.Load())
	require.Zero(t, failed)
	require.LessOrEqual(t, lost.Load(), int64(1), "whose slot was needed to see whether one can be opened")
}
