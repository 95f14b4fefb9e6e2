package pool_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestPingIsCalledOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings int
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(context.Context, *conn) error { pings++; return nil }
			c.PingPeriod = 10 * time.Second
		})
		for range 100 {
			acquire(t, p).Release()
			time.Sleep(time.Second)
		}
		require.Zero(t, pings, "it is in use all the time")
		time.Sleep(10 * time.Second)
		acquire(t, p).Release()
		acquire(t, p).Release()
		require.Equal(t, 1, pings)
		require.Equal(t, int64(1), p.Stat().Pinged)
	})
}

func TestAnIdlePoolSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.MaxConnIdleTime = -1
			c.Ping = func(context.Context, *conn) error { t.Error("pinged"); return nil }
		})
		fill(t, p, 4)
		time.Sleep(20 * time.Minute)
		require.Equal(t, 4, p.Stat().Idle)
	})
}

func TestManyBlackHoledConnectionsCostOnePingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 20
			c.Ping = func(ctx context.Context, c *conn) error {
				if broken.Load() && c.id != 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			c.PingTimeout = time.Second
		})
		fill(t, p, 20)
		time.Sleep(40 * time.Second)
		broken.Store(true)
		f.mu.Lock()
		f.block = true
		f.mu.Unlock()
		began := time.Now()
		c := acquire(t, p)
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.Equal(t, 1, c.Value().id, "the only one that answers")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, p.Stat().Idle)
		require.Equal(t, int64(19), p.Stat().Closed(pool.ReasonPing))
		c.Release()
	})
}

func TestPingObeysTheCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(ctx context.Context, c *conn) error { <-ctx.Done(); return ctx.Err() }
		})
		fill(t, p, 2)
		time.Sleep(31 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := p.Acquire(ctx)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, p.Stat().Idle, "only the one whose ping was interrupted is gone")
	})
}

func TestAPanicInPingDiscardsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []error
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(context.Context, *conn) error { panic("boom") }
			c.Trace = &pool.Trace{PingDone: func(_ context.Context, d pool.PingDone) { seen = append(seen, d.Err) }}
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		c := acquire(t, p)
		require.Equal(t, 2, c.Value().id)
		c.Release()
		var pe *pool.PanicError
		require.True(t, len(seen) == 1 && errors.As(seen[0], &pe))
	})
}

func TestLeaksAreReportedWithTheStackOfTheAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var leaks []pool.ConnLeaked
		seen := func() []pool.ConnLeaked {
			mu.Lock()
			defer mu.Unlock()
			return leaks
		}
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.LeakTimeout = time.Minute
			c.Trace = &pool.Trace{ConnLeaked: func(l pool.ConnLeaked) {
				mu.Lock()
				defer mu.Unlock()
				leaks = append(leaks, l)
			}}
		})
		c := acquire(t, p)
		time.Sleep(59 * time.Second)
		c.Release()
		c = acquire(t, p)
		time.Sleep(59 * time.Second)
		require.Empty(t, seen())
		time.Sleep(time.Hour)
		require.Len(t, seen(), 1, "once")
		require.GreaterOrEqual(t, seen()[0].Held, time.Minute)
		require.Contains(t, seen()[0].Stack, "TestLeaksAreReportedWithTheStackOfTheAcquire")
		c.Release()
	})
}

func TestTraceSeesTheLifeOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var mu sync.Mutex
		var log []string
		var p *pool.Pool[*conn]
		add := func(s string) {
			p.Stat() // a hook may call the pool
			mu.Lock()
			defer mu.Unlock()
			log = append(log, s)
		}
		f := &factory{}
		p = newPool(t, f, func(c *pool.Config[*conn]) {
			open := c.Open
			c.Open = func(ctx context.Context) (*conn, error) {
				require.Equal(t, 1, ctx.Value(key{}))
				return open(ctx)
			}
			c.Trace = &pool.Trace{
				AcquireDone: func(_ context.Context, d pool.AcquireDone) { add("acquired") },
				ReleaseDone: func(d pool.ReleaseDone) {
					require.Equal(t, time.Second, d.Held)
					add("released")
				},
				OpenStart:  func(ctx context.Context) context.Context { add("opening"); return context.WithValue(ctx, key{}, 1) },
				OpenDone:   func(ctx context.Context, d pool.OpenDone) { require.Equal(t, 1, ctx.Value(key{})); add("opened") },
				ConnClosed: func(c pool.ConnClosed) { add("closed: " + c.Reason.String()) },
				Reset:      func(error) { add("reset") },
			}
		})
		c := acquire(t, p)
		time.Sleep(time.Second)
		c.Release()
		p.Reset()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.ElementsMatch(t, []string{"opening", "opened", "acquired", "released", "closed: reset", "reset"}, log)
	})
}
