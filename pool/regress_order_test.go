package pool_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// "Callers are served in the order in which they came." One whose idle
// connection failed a slow ping is no newcomer.
func TestTheOrderHoldsForCallersWhoseIdleConnectionFailedItsPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		var n atomic.Int64
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 2
			c.Ping = func(context.Context, *conn) error {
				time.Sleep(time.Duration(3-n.Add(1)) * 100 * time.Millisecond) // the earlier caller's takes longer
				return errRefused
			}
		})
		fill(t, p, 2)
		time.Sleep(31 * time.Second)
		f.mu.Lock()
		f.takes = time.Second
		f.mu.Unlock()
		order := make(chan int, 2)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				c := acquire(t, p)
				order <- i
				time.Sleep(time.Second)
				c.Release()
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		require.Equal(t, 0, <-order)
		require.Equal(t, 1, <-order)
	})
}

// MaxWaiters' comment: "Those who come back, because the connection
// they were given failed its check, are not refused." Also if that was an idle one.
func TestCallersWhoseIdleConnectionFailedItsPingAreNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 2
			c.MaxWaiters = 1
			c.Ping = func(context.Context, *conn) error { time.Sleep(100 * time.Millisecond); return errRefused }
		})
		fill(t, p, 2)
		time.Sleep(31 * time.Second)
		f.mu.Lock()
		f.takes = time.Second
		f.mu.Unlock()
		var wg sync.WaitGroup
		errs := make(chan error, 2)
		for range 2 {
			wg.Go(func() {
				c, err := p.Acquire(t.Context())
				errs <- err
				c.Release()
			})
		}
		wg.Wait()
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
	})
}
