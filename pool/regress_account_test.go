package pool_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestAcquiredCountsSuccessfulCheckoutsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var block, fail atomic.Bool
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.MaxConns = 10
			c.Ping = func(ctx context.Context, _ *conn) error {
				if block.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				if fail.Load() {
					return errRefused
				}
				return nil
			}
		})
		fill(t, p, 10)
		require.EqualValues(t, 10, p.Stat().Acquired)
		time.Sleep(31 * time.Second)

		block.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.Error(t, err)
		_, err = p.Acquire(ctx)
		require.Error(t, err, "it has ended before")
		require.EqualValues(t, 10, p.Stat().Acquired)
		require.EqualValues(t, 2, p.Stat().GaveUp)

		block.Store(false)
		fail.Store(true)
		acquire(t, p).Release() // by way of nine that fail their ping
		synctest.Wait()
		require.EqualValues(t, 11, p.Stat().Acquired)
		require.NoError(t, p.Do(t.Context(), func(context.Context, *conn) error { return nil }))
		require.EqualValues(t, 12, p.Stat().Acquired)
	})
}

func TestACallWaitsOnceAndForItsWholeDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		var told []pool.AcquireDone
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 2
			c.Ping = func(context.Context, *conn) error { time.Sleep(500 * time.Millisecond); return errRefused }
			c.Trace = &pool.Trace{AcquireDone: func(_ context.Context, d pool.AcquireDone) { told = append(told, d) }}
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		f.mu.Lock()
		f.takes = 10 * time.Second
		f.mu.Unlock()
		before := p.Stat()
		acquire(t, p).Release() // the idle one fails its ping, then it waits for an open
		after := p.Stat()
		require.EqualValues(t, 1, after.Waits-before.Waits)
		require.Equal(t, 10500*time.Millisecond, after.WaitDuration-before.WaitDuration)
		require.Equal(t, pool.AcquireDone{Wait: 10500 * time.Millisecond, Waited: true}, told[len(told)-1])
	})
}

func TestAConnectionBeingClosedIsInNobodysUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.Close = func(c *conn) error { time.Sleep(time.Second); return f.close(c) }
		})
		a, b := acquire(t, p), acquire(t, p)
		a.Fail(syscall.EPIPE)
		s := p.Stat()
		require.Equal(t, []int{2, 1, 0, 0, 1}, []int{s.Total, s.InUse, s.Idle, s.Opening, s.Closing})
		time.Sleep(2 * time.Second)
		b.Release()
		s = p.Stat()
		require.Equal(t, []int{1, 0, 1, 0, 0}, []int{s.Total, s.InUse, s.Idle, s.Opening, s.Closing})
	})
}

func TestTraceSeesAHijack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		var released []pool.ReleaseDone
		var closed []pool.ConnClosed
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.Trace = &pool.Trace{
				ReleaseDone: func(d pool.ReleaseDone) { released = append(released, d) },
				ConnClosed:  func(c pool.ConnClosed) { closed = append(closed, c) },
			}
		})
		time.Sleep(time.Second)
		c := acquire(t, p)
		time.Sleep(time.Minute)
		v, ok := c.Hijack()
		require.True(t, ok)
		require.NoError(t, f.close(v))
		c.Release()
		require.Equal(t, []pool.ReleaseDone{{Held: time.Minute}}, released)
		require.Equal(t, []pool.ConnClosed{{Reason: pool.ReasonHijacked, Age: time.Minute}}, closed)
	})
}

func TestCloseSaysWhatItDidNotWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		release := make(chan struct{})
		p, err := pool.New(pool.Config[*conn]{
			Open: (&factory{}).open, MaxConns: 1,
			NetConn: func(*conn) net.Conn { return near },
			Close:   func(*conn) error { <-release; return nil },
		})
		require.NoError(t, err)
		acquire(t, p).Fail(syscall.EPIPE)
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errRefused)
		err = p.Close(ended)
		require.ErrorContains(t, err, "1 being closed")
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, errRefused, "the cause")
		time.Sleep(time.Second) // CloseTimeout is over, the slot is free
		require.Zero(t, p.Stat().Total)
		require.ErrorContains(t, p.Close(ended), "functions or hooks still running")
		close(release)
		closePool(t, p)
	})
}

func TestTheLeastPatientCloseDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, nil)
		held := acquire(t, p)
		var patient sync.WaitGroup
		patient.Go(func() { require.NoError(t, p.Close(context.Background())) })
		synctest.Wait()
		require.False(t, held.Value().closed.Load())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorContains(t, p.Close(ctx), "1 in use (they were cut off)")
		patient.Wait()
		require.True(t, held.Value().closed.Load())
	})
}
