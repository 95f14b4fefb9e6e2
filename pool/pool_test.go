package pool_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestAcquirePrefersTheMostRecentlyUsed(t *testing.T) {
	p := newPool(t, &factory{}, nil)
	a, b := acquire(t, p), acquire(t, p)
	a.Release()
	b.Release()
	c := acquire(t, p)
	defer c.Release()
	require.Same(t, b.Value(), c.Value())
	require.Equal(t, int64(2), p.Stat().Opened)
}

func TestTheLimitCountsOpeningLiveAndClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{takes: time.Second}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 3
			c.MaxConcurrentOpens = 10
			c.Close = func(c *conn) error { time.Sleep(time.Second); return f.close(c) }
		})
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			if c, err := p.Acquire(ctx); err == nil {
				c.Fail(syscall.ECONNRESET)
			}
			require.LessOrEqual(t, p.Stat().Total, 3)
			cancel()
		}
		require.LessOrEqual(t, f.mostLive(), 3)
		opened, _, _ := f.counts()
		require.Greater(t, opened, 10)
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		held := acquire(t, p)
		var got []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				c := acquire(t, p)
				got = append(got, i) // one holder at a time
				c.Release()
			})
			synctest.Wait()
		}
		held.Release()
		wg.Wait()
		for i, g := range got {
			require.Equal(t, i, g)
		}
	})
}

func TestNobodyWaitsForTheirOwnDialWhileAConnectionIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, nil)
		held := acquire(t, p)
		f.takes = time.Second
		go func() {
			time.Sleep(100 * time.Millisecond)
			held.Release()
		}()
		began := time.Now()
		c := acquire(t, p) // starts a dial of a second
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		c.Release()
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1; c.MaxWaiters = 2 })
		held := acquire(t, p)
		var wg sync.WaitGroup
		defer wg.Wait()
		for range 2 {
			wg.Go(func() { acquire(t, p).Release() })
		}
		synctest.Wait()
		_, err := p.Acquire(t.Context())
		require.ErrorIs(t, err, pool.ErrTooManyWaiters)
		var ae *pool.AcquireError
		require.ErrorAs(t, err, &ae)
		require.Equal(t, 2, ae.Stat.Waiting)
		require.ErrorContains(t, err, "1 in use")
		held.Release()
	})
}

func TestAnExpiredCallerIsNeverGivenAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		held := acquire(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make(chan error, 1)
		go func() {
			_, err := p.Acquire(ctx)
			errs <- err
		}()
		time.Sleep(time.Second) // the release below and the deadline fall together
		held.Release()
		err := <-errs
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var ae *pool.AcquireError
		require.ErrorAs(t, err, &ae)
		require.True(t, ae.Timeout())
		require.Equal(t, time.Second, ae.Waited)
		acquire(t, p).Release()

		canceled, cancel2 := context.WithCancelCause(t.Context())
		cancel2(errRefused)
		_, err = p.Acquire(canceled)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, errRefused, "the cause is part of the error")
	})
}

// TestACancelledCallerIsNeverGivenAConnection has both happen before the caller
// runs again: its cancellation, and the release that gives it a connection.
func TestACancelledCallerIsNeverGivenAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		for range 100 {
			held := acquire(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			errs := make(chan error, 1)
			go func() {
				_, err := p.Acquire(ctx)
				errs <- err
			}()
			synctest.Wait()
			old := runtime.GOMAXPROCS(1)
			cancel()
			held.Release()
			runtime.GOMAXPROCS(old)
			require.ErrorIs(t, <-errs, context.Canceled)
			require.Equal(t, 1, p.Stat().Idle)
		}
	})
}

func TestStaleReleaseDoesNothing(t *testing.T) {
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
	first := acquire(t, p)
	again := first
	first.Release()
	second := acquire(t, p)
	require.Same(t, first.Value(), second.Value())
	first.Release()
	again.Release()
	first.Fail(syscall.ECONNRESET)
	_, ok := first.Hijack()
	require.False(t, ok)
	require.ErrorIs(t, first.Err(), pool.ErrClosed)
	require.NoError(t, second.Err())
	s := p.Stat()
	require.Equal(t, 1, s.InUse)
	require.Equal(t, 0, s.Idle)
	second.Release()
	require.Equal(t, 1, p.Stat().Idle)

	var zero pool.Conn[*conn]
	zero.Release()
	zero.Fail(errRefused)
	require.Nil(t, zero.Value())
	require.Error(t, zero.Err())
}

func TestFailDropsOrKeepsByClass(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		kept bool
	}{
		"nil":                    {nil, true},
		"application error":      {errors.New("ERR unknown command"), true},
		"reset":                  {syscall.ECONNRESET, false},
		"path":                   {syscall.EHOSTUNREACH, false},
		"kernel's timeout":       {syscall.ETIMEDOUT, false},
		"our deadline":           {context.DeadlineExceeded, false},
		"role":                   {errors.New("READONLY You can't write against a read only replica."), false},
		"joined with an I/O one": {errors.Join(errRefused, syscall.EPIPE), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, &factory{}, nil)
			c := acquire(t, p)
			c.Fail(tc.err)
			require.Equal(t, tc.kept, p.Stat().Idle == 1)
		})
	}
}

func TestARoleErrorReplacesAllConnectionsOnce(t *testing.T) {
	f := &factory{}
	p := newPool(t, f, func(c *pool.Config[*conn]) {
		c.Classify = func(err error) health.Class {
			if errors.Is(err, errRefused) {
				return health.Role
			}
			return health.Unknown
		}
	})
	a, b, c := acquire(t, p), acquire(t, p), acquire(t, p)
	c.Release()
	a.Fail(errRefused)
	require.Equal(t, 0, p.Stat().Idle)
	require.ErrorIs(t, b.Err(), pool.ErrOutdated)
	d := acquire(t, p)
	b.Fail(errRefused) // from an older epoch: changes nothing
	require.NoError(t, d.Err())
	d.Release()
	require.Equal(t, int64(1), p.Stat().Resets)
	require.Equal(t, 1, p.Stat().Idle)
}

func TestResetOutdatesADialThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{takes: time.Second}
		p := newPool(t, f, nil)
		got := make(chan pool.Conn[*conn])
		go func() { got <- acquire(t, p) }()
		time.Sleep(500 * time.Millisecond)
		p.Reset()
		c := <-got
		require.Equal(t, 2, c.Value().id, "the first was dialed before the reset")
		require.Equal(t, int64(1), p.Stat().Closed(pool.ReasonReset))
		c.Release()
	})
}

func TestHijackFreesTheSlot(t *testing.T) {
	f := &factory{}
	p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
	c := acquire(t, p)
	v, ok := c.Hijack()
	require.True(t, ok)
	acquire(t, p).Release()
	require.False(t, v.closed.Load())
	require.NoError(t, f.close(v))
	require.Equal(t, int64(1), p.Stat().Closed(pool.ReasonHijacked))
}

func TestCloseWakesWaitersAtOnceAndReturnsWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p, err := pool.New(pool.Config[*conn]{Open: f.open, Close: f.close, MaxConns: 1})
		require.NoError(t, err)
		held := acquire(t, p)
		waiter := make(chan error, 1)
		go func() {
			_, err := p.Acquire(context.Background())
			waiter <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = p.Close(ctx)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "1 in use (they were cut off)")
		require.ErrorIs(t, <-waiter, pool.ErrClosed)
		synctest.Wait()
		require.True(t, held.Value().closed.Load(), "cut off under its holder")
		held.Release()
		_, err = p.Acquire(t.Context())
		require.ErrorIs(t, err, pool.ErrClosed)
		require.NoError(t, p.Close(t.Context()), "nothing is left to wait for")
	})
}

func TestCloseWaitsForTheHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, nil)
		held := acquire(t, p)
		began := time.Now()
		go func() {
			time.Sleep(time.Minute)
			held.Release()
		}()
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, time.Minute, time.Since(began))
	})
}
