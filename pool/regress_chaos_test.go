package pool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// TestTheBooksBalanceAfterChaos does everything to a pool at once: deaths,
// resets, hijacks, expiries, pings, leaks, late releases, and in every other
// round three impatient calls of Close.
func TestTheBooksBalanceAfterChaos(t *testing.T) {
	t.Parallel()
	for round := range 6 {
		s := newServer(t, nil)
		p, err := pool.New(pool.Config[net.Conn]{
			Open: s.open, MaxConns: 6, MinIdleConns: 2, MaxConnLifetime: 5 * time.Millisecond, MaxConnIdleTime: 3 * time.Millisecond,
			Ping: echo, PingPeriod: time.Millisecond, PingTimeout: 20 * time.Millisecond, MaxOpenBackoff: 10 * time.Millisecond,
			LeakTimeout: time.Millisecond,
			Trace: &pool.Trace{
				ConnLeaked:  func(pool.ConnLeaked) {},
				AcquireDone: func(context.Context, pool.AcquireDone) {},
				ReleaseDone: func(pool.ReleaseDone) {},
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		var wrong atomic.Int64
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() { mistreat(ctx, p, &wrong) })
		}
		callers.Go(func() {
			for ctx.Err() == nil {
				<-time.After(10 * time.Millisecond)
				s.closeConns(rand.IntN(2) == 0)
			}
		})
		if round%2 == 0 {
			<-time.After(50 * time.Millisecond)
			ended, end := context.WithCancel(context.Background())
			end()
			for range 3 {
				callers.Go(func() { p.Close(ended) })
			}
		}
		callers.Wait()
		cancel()
		closePool(t, p)
		stat := p.Stat()
		require.Zero(t, wrong.Load(), "numbers that can't be")
		require.Equal(t, stat.Opened, stat.ClosedAll())
		require.Zero(t, stat.InUse)
	}
}

// mistreat uses a pool in all the ways there are until ctx ends.
func mistreat(ctx context.Context, p *pool.Pool[net.Conn], wrong *atomic.Int64) {
	var last pool.Conn[net.Conn]
	for ctx.Err() == nil {
		impatient, cancel := context.WithTimeout(ctx, rand.N(5*time.Millisecond))
		c, err := p.Acquire(impatient)
		if s := p.Stat(); s.Total > s.MaxConns || min(s.InUse, s.Idle, s.Opening, s.Closing, s.Waiting) < 0 {
			wrong.Add(1)
		}
		cancel()
		last.Release() // long given back
		switch {
		case errors.Is(err, pool.ErrClosed):
			return
		case err != nil:
			continue
		}
		switch rand.IntN(8) {
		case 0:
			c.Fail(syscall.ECONNRESET)
		case 1:
			c.Fail(errRefused)
		case 2:
			if v, ok := c.Hijack(); ok {
				v.Close()
			}
		case 3:
			p.Reset()
			c.Release()
		case 4:
			c.Err()
			c.Value().Close()
			c.Release()
		default:
			c.Release()
		}
		last = c
	}
}
