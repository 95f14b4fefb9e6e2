package pool_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestABlackHoledOpenLetsEveryCallerGoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{block: true}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 16
			c.DetectWithin = 5 * time.Second
			c.OpenTimeout = time.Second
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				began := time.Now()
				_, err := p.Acquire(ctx)
				require.Equal(t, 200*time.Millisecond, time.Since(began))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "4 opening")
				require.ErrorContains(t, err, "without an answer")
			})
		}
		wg.Wait()
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.ErrorContains(t, err, "Open took longer than OpenTimeout")
		require.ErrorContains(t, err, "in a row")
		require.Equal(t, health.Path, health.Classify(err))
		time.Sleep(5 * time.Second)

		f.mu.Lock()
		f.block = false
		require.LessOrEqual(t, f.mostOp, 4)
		f.mu.Unlock()
		began := time.Now()
		acquire(t, p).Release()
		require.LessOrEqual(t, time.Since(began), time.Second, "one backoff window")
	})
}

func TestAFailedOpenFailsNobodyWhoseContextLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, nil)
		go func() {
			time.Sleep(3 * time.Second)
			f.set(nil)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		c, err := p.Acquire(ctx)
		require.NoError(t, err)
		c.Release()
		require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		require.Zero(t, p.Stat().OpenFailures)
		require.NotZero(t, p.Stat().OpenFailed)
	})
}

func TestFailedOpensAreSpreadByFullJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "both causes are kept")
		require.True(t, health.SafeToRetry(err))
		var short, long int
		for i := 20; i < len(f.times); i++ {
			gap := f.times[i].Sub(f.times[i-1])
			require.LessOrEqual(t, gap, time.Second)
			if gap < 500*time.Millisecond {
				short++
			} else {
				long++
			}
		}
		require.InDelta(t, 600, len(f.times), 100, "a window of a second, half used on average")
		require.InDelta(t, 0.5, float64(short)/float64(short+long), 0.1, "five standard deviations")
	})
}

func TestAPermanentErrorIsReportedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &net.AddrError{Err: "missing port in address", Addr: "redis"}
		p := newPool(t, &factory{fail: bad}, nil)
		began := time.Now()
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, bad)
		require.ErrorContains(t, err, "no repetition can mend")
		require.Zero(t, time.Since(began))
	})
}

func TestWithoutADeadlineTheLastOpenErrorEndsTheWaitAfterDetectWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 2; c.DetectWithin = 7 * time.Second })
		held := acquire(t, p)
		f.set(syscall.EHOSTUNREACH)
		errs := make(chan error, 1)
		go func() {
			_, err := p.Acquire(context.Background())
			errs <- err
		}()
		time.Sleep(time.Minute)
		require.Empty(t, errs, "somebody may still release the live connection")
		began := time.Now()
		held.Fail(syscall.EHOSTUNREACH)
		err := <-errs
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		require.GreaterOrEqual(t, time.Since(began), 7*time.Second)
		require.LessOrEqual(t, time.Since(began), 8*time.Second)
	})
}

func TestAPanicInOpenBecomesAnErrorWithTheStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := pool.New(pool.Config[*conn]{
			Open:  func(context.Context) (*conn, error) { panic("boom") },
			Close: func(*conn) error { return nil },
		})
		require.NoError(t, err)
		defer closePool(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Acquire(ctx)
		var pe *pool.PanicError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, "boom", pe.Value)
		require.Contains(t, pe.Stack, "open_test.go")
	})
}

func TestAnOpenThatReturnsNothingIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := pool.New(pool.Config[net.Conn]{Open: func(context.Context) (net.Conn, error) { return nil, nil }})
		require.NoError(t, err)
		defer closePool(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Acquire(ctx)
		require.ErrorContains(t, err, "no connection and no error")
	})
}

func TestAnOpenThatReturnsAfterCloseLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{takes: time.Minute} // deaf to its context
		p, err := pool.New(pool.Config[*conn]{Open: f.open, Close: f.close})
		require.NoError(t, err)
		go p.Acquire(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = p.Close(ctx)
		require.ErrorContains(t, err, "1 being opened")
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, time.Minute, time.Since(began))
		opened, live, closed := f.counts()
		require.Equal(t, []int{1, 0, 1}, []int{opened, live, closed})
	})
}

func TestCloseCancelsOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{block: true}
		p := newPool(t, f, nil)
		go p.Acquire(t.Context())
		synctest.Wait()
		began := time.Now()
		require.NoError(t, p.Close(t.Context()))
		require.Zero(t, time.Since(began))
	})
}

func TestACallerWhoGivesUpLeavesItsOpenToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{takes: time.Second}
		p := newPool(t, f, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		require.Equal(t, 1, p.Stat().Idle)
	})
}

func TestABusyConnectionIsReplacedAtItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.MaxConnLifetime = time.Minute
			c.MaxConnLifetimeJitter = -1
		})
		for range 3 * 60 {
			c := acquire(t, p)
			time.Sleep(time.Second)
			require.False(t, c.Value().closed.Load())
			c.Release()
		}
		require.InDelta(t, 3, f.opened, 1)
		require.NotZero(t, p.Stat().Closed(pool.ReasonLifetime))
		c := acquire(t, p)
		time.Sleep(time.Minute)
		require.ErrorIs(t, c.Err(), pool.ErrOutdated)
		c.Release()
	})
}

func TestIdleConnectionsAreClosedAtTheirLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConnIdleTime = 32 * time.Second })
		fill(t, p, 3)
		time.Sleep(29 * time.Second)
		require.Equal(t, 3, p.Stat().Idle, "a sixteenth early at most")
		acquire(t, p).Release()
		time.Sleep(6 * time.Second)
		require.Equal(t, 1, p.Stat().Idle, "the one that was used")
		require.Equal(t, int64(2), p.Stat().Closed(pool.ReasonIdle))
		time.Sleep(time.Minute)
		require.Zero(t, p.Stat().Total)
	})
}

func TestAConnectionHeldForLongIsNotIdleFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConnIdleTime = 32 * time.Second; c.MaxConnLifetime = -1 })
		c := acquire(t, p)
		v := c.Value()
		time.Sleep(24 * time.Hour)
		c.Release()
		time.Sleep(29 * time.Second)
		c = acquire(t, p)
		require.Same(t, v, c.Value())
		c.Release()
	})
}

func TestMinIdleConnsStayWarmAndObeyTheIdleLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MinIdleConns = 2; c.MaxConnIdleTime = 16 * time.Second })
		synctest.Wait()
		require.Equal(t, 2, p.Stat().Idle)
		c := acquire(t, p)
		synctest.Wait()
		require.Equal(t, 2, p.Stat().Idle, "beyond those in use")
		c.Release()
		for range 100 {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			require.GreaterOrEqual(t, p.Stat().Idle, 2)
			require.LessOrEqual(t, p.Stat().Idle, 4)
		}
		require.Greater(t, f.opened, 10, "they were replaced")
		p.Reset()
		synctest.Wait()
		require.Equal(t, 2, p.Stat().Idle)
	})
}

func TestMinIdleConnsAreRetriedAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MinIdleConns = 2 })
		time.Sleep(time.Minute)
		f.set(nil)
		time.Sleep(2 * time.Second)
		require.Equal(t, 2, p.Stat().Idle)
	})
}

func TestASlowCloseHoldsNoCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		near, far := net.Pipe()
		defer far.Close()
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.NetConn = func(*conn) net.Conn { return near }
			c.Close = func(c *conn) error {
				near.Read(make([]byte, 1)) // a goodbye that nobody answers
				return f.close(c)
			}
		})
		c := acquire(t, p)
		began := time.Now()
		c.Fail(syscall.ECONNRESET)
		require.Zero(t, time.Since(began))
		acquire(t, p).Release()
		require.Equal(t, 50*time.Millisecond, time.Since(began), "the socket below was closed and the slot is free")
		_, err := far.Read(make([]byte, 1))
		require.Error(t, err)
	})
}

func TestAPanicInCloseIsReported(t *testing.T) {
	var got pool.ConnClosed
	p, err := pool.New(pool.Config[*conn]{
		Open:  (&factory{}).open,
		Close: func(*conn) error { panic(errors.New("boom")) },
		Trace: &pool.Trace{ConnClosed: func(c pool.ConnClosed) { got = c }},
	})
	require.NoError(t, err)
	acquire(t, p).Fail(syscall.EPIPE)
	closePool(t, p)
	var pe *pool.PanicError
	require.ErrorAs(t, got.CloseErr, &pe)
	require.ErrorIs(t, got.Err, syscall.EPIPE)
	require.Equal(t, pool.ReasonFailed, got.Reason)
}
