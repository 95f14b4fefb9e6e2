package pool_test

import (
	"context"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestAConnectionThatIsNeverIdleForAMillisecondObeysItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.MaxConnLifetime = time.Second
			c.MaxConnLifetimeJitter = -1
		})
		for began := time.Now(); time.Since(began) < 10*time.Second; {
			c := acquire(t, p)
			time.Sleep(900 * time.Microsecond)
			c.Release()
		}
		require.InDelta(t, 10, f.opened, 1)
	})
}

func TestACheckoutObeysTheIdleTimeBetweenTwoUpkeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConnIdleTime = 32 * time.Second })
		fill(t, p, 1)
		time.Sleep(time.Second)
		acquire(t, p).Release()
		time.Sleep(32*time.Second + 500*time.Millisecond) // upkeep was half a second too early
		require.Equal(t, 1, p.Stat().Idle)
		acquire(t, p).Release()
		require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonIdle))
	})
}

// slam is a server that accepts connections only to close them a little later.
func slam(t *testing.T, later time.Duration) (s *server, accepted *atomic.Int64) {
	accepted = new(atomic.Int64)
	return newServer(t, func(c net.Conn) {
		accepted.Add(1)
		time.Sleep(later)
		c.Close()
	}), accepted
}

func TestAServerThatSlamsTheDoorIsNotHammeredForIdleConnections(t *testing.T) {
	for name, later := range map[string]time.Duration{"at once": 0, "after 5 ms": 5 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, accepted := slam(t, later)
			newNetPool(t, pool.Config[net.Conn]{Open: s.open, MinIdleConns: 1})
			<-time.After(500 * time.Millisecond) // a rate is measured over a time
			require.Less(t, accepted.Load(), int64(25))
			require.Eventually(t, func() bool { return accepted.Load() > 0 }, 10*time.Second, time.Millisecond)
		})
	}
}

func TestAServerThatSlamsTheDoorIsNotHammeredForCallers(t *testing.T) {
	t.Parallel()
	s, accepted := slam(t, 0)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		p.Do(ctx, echo)
	}
	require.Less(t, accepted.Load(), int64(50))
}

func TestAServerThatClosesEveryNewConnectionIsNotHammered(t *testing.T) {
	var accepted atomic.Int64
	s := newServer(t, func(c net.Conn) { accepted.Add(1); c.Close() })
	p := newNetPool(t, pool.Config[net.Conn]{Open: func(ctx context.Context) (net.Conn, error) {
		c, err := s.open(ctx)
		if err == nil {
			awaitEnd(ctx, c)
		}
		return c, err
	}})
	began := time.Now()
	err := acquireInVain(t, p)
	require.ErrorContains(t, err, "dead before its first use")
	require.Less(t, accepted.Load(), int64(60)*max(1, int64(time.Since(began)/time.Second)))
}

func TestAConnectionThatFailsAtItsFirstUseCountsAsAFailedOpenUntilOneIsOfUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, nil)
		began := time.Now()
		for range 20 {
			acquire(t, p).Fail(syscall.ECONNRESET)
		}
		require.Greater(t, time.Since(began), time.Second)
		require.Equal(t, 20, p.Stat().OpenFailures)
		acquire(t, p).Release()
		require.Zero(t, p.Stat().OpenFailures)

		began = time.Now()
		acquire(t, p).Fail(syscall.ECONNRESET) // it was of use once
		require.Zero(t, p.Stat().OpenFailures)
		c := acquire(t, p)
		require.Zero(t, time.Since(began))
		time.Sleep(2 * time.Second) // a connection that lives was worth its dial
		c.Fail(syscall.ECONNRESET)
		require.Zero(t, p.Stat().OpenFailures)
	})
}

func TestConnectionsThatAreDeadAtBirthDoNotProlongTheWait(t *testing.T) {
	t.Parallel()
	s, _ := slam(t, 0)
	p := newNetPool(t, pool.Config[net.Conn]{DetectWithin: 2 * time.Second, Open: func(ctx context.Context) (net.Conn, error) {
		c, err := s.open(ctx)
		if err == nil {
			awaitEnd(ctx, c)
		}
		return c, err
	}})
	failed := make(chan error, 1)
	go func() {
		_, err := p.Acquire(context.Background())
		failed <- err
	}()
	select {
	case err := <-failed:
		require.ErrorContains(t, err, "dead before its first use")
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting long after DetectWithin")
	}
}

func TestOpensAfterAFailureBeginOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED, takes: 3 * time.Second}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 16 })
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				_, err := p.Acquire(ctx)
				require.ErrorIs(t, err, syscall.ECONNREFUSED)
			})
		}
		callers.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		later := f.times[4:] // the first were begun before anything had failed
		require.Equal(t, len(later), len(slices.Compact(slices.Clone(later))), "several began in one window")
		require.Greater(t, len(later), 60)
	})
}

func TestAPermanentErrorFailsNobodyWhileAConnectionLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 2 })
		held := acquire(t, p)
		f.set(&net.AddrError{Err: "missing port in address", Addr: "redis"})
		got := make(chan error, 1)
		go func() {
			c, err := p.Acquire(context.Background())
			got <- err
			c.Release()
		}()
		time.Sleep(time.Minute)
		require.NotZero(t, p.Stat().OpenFailed)
		require.Empty(t, got)
		held.Release()
		require.NoError(t, <-got)
	})
}

func TestEveryCallerWaitsForDetectWithinOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{fail: syscall.ECONNREFUSED}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		var impatient sync.WaitGroup
		impatient.Go(func() { p.Acquire(ctx) }) // keeps the pool trying
		time.Sleep(time.Minute)
		began := time.Now()
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.GreaterOrEqual(t, time.Since(began), 10*time.Second)
		require.LessOrEqual(t, time.Since(began), 11*time.Second)
		require.NoError(t, ctx.Err(), "who has a deadline has told how long to wait")
		require.Equal(t, 1, p.Stat().Waiting)
		cancel()
		impatient.Wait()
	})
}

func TestDetectWithinEndsTheWaitAlsoWhileAnOpenHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.DetectWithin = 2 * time.Second
			c.OpenTimeout = time.Hour
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		p.Acquire(ctx)
		f.mu.Lock()
		f.block = true
		f.mu.Unlock()
		began := time.Now()
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
	})
}

func TestASuccessfulOpenEndsTheErrorOfTheLastFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		time.AfterFunc(time.Second, func() { f.set(nil) })
		held := acquire(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.ErrorContains(t, err, "all are held")
		require.NotErrorIs(t, err, syscall.ECONNREFUSED)
		held.Release()
	})
}

func TestAClosedGuardIsToldAtOnceAndLeaksNoConnection(t *testing.T) {
	guard, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	ended := make(chan struct{}, 100)
	s := newServer(t, func(c net.Conn) { c.Read(make([]byte, 1)); ended <- struct{}{} })
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, Guard: guard})
	require.NoError(t, guard.Close())
	_, err = p.Acquire(context.Background()) // doesn't wait for DetectWithin
	require.ErrorIs(t, err, health.ErrGuardClosed)
	require.ErrorContains(t, err, "no repetition can mend")
	select {
	case <-ended: // garbage collection doesn't do it: nothing collects
	case <-time.After(10 * time.Second):
		t.Fatal("the connection was opened and not closed")
	}
}

func TestAClosedGuardIsToldAtOnceAlsoIfClosingFails(t *testing.T) {
	guard, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	s := newServer(t, func(c net.Conn) { c.Read(make([]byte, 1)) })
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, Guard: guard, Close: func(c net.Conn) error {
		c.Close()
		return syscall.EPIPE // as TLS does, which has a farewell to say
	}})
	require.NoError(t, guard.Close())
	_, err = p.Acquire(context.Background())
	require.ErrorIs(t, err, health.ErrGuardClosed)
	require.ErrorContains(t, err, "no repetition can mend")
}

func TestErrorsOfOneEpochChangeTheRoleOnce(t *testing.T) {
	for range 50 {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns, c.MaxConcurrentOpens = 16, 16
			c.Classify = func(error) health.Class { return health.Role }
		})
		held := make([]pool.Conn[*conn], 16)
		for i := range held {
			held[i] = acquire(t, p)
		}
		start := make(chan struct{})
		var failing sync.WaitGroup
		for _, c := range held {
			failing.Go(func() { <-start; c.Fail(errRefused) })
		}
		runtime.Gosched()
		close(start)
		failing.Wait()
		require.EqualValues(t, 1, p.Stat().Resets)
	}
}
