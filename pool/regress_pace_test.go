package pool_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// Connections that are held, not released, must not keep the pace of an outage.
func TestAfterAnOutageOpensThatSucceedAreNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{fail: syscall.ECONNREFUSED}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 32 })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.Acquire(ctx) // an outage of a minute
		f.set(nil)
		began := time.Now()
		var mu sync.Mutex
		var last time.Duration
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				c := acquire(t, p)
				mu.Lock()
				last = max(last, time.Since(began))
				mu.Unlock()
				time.Sleep(time.Minute) // a subscription, a transaction
				c.Release()
			})
		}
		wg.Wait()
		t.Log("the last of 32 callers was served after", last)
		require.LessOrEqual(t, last, 3*time.Second)
	})
}

// The last connection to go was a useless one, but another had lived until a
// moment before.
func TestDetectWithinBeginsWithTheLossOfTheLastConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 2 })
		a, b := acquire(t, p), acquire(t, p)
		got := make(chan pool.Conn[*conn], 1)
		go func() { got <- acquire(t, p) }()
		synctest.Wait()
		told := make(chan time.Time, 1)
		go func() {
			p.Acquire(context.Background())
			told <- time.Now()
		}()
		time.Sleep(11 * time.Second) // both wait: all connections are held
		b.Fail(syscall.ECONNRESET)
		c := <-got // new
		f.set(syscall.ECONNREFUSED)
		time.Sleep(50 * time.Millisecond)
		lost := time.Now()
		a.Fail(syscall.ECONNRESET)
		time.Sleep(50 * time.Millisecond)
		c.Fail(syscall.ECONNRESET)
		require.GreaterOrEqual(t, (<-told).Sub(lost), 10*time.Second, "DetectWithin without a connection of use")
	})
}
