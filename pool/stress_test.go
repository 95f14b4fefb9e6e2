package pool_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// TestNoTwoHoldersWhateverIsReleasedTwice lets many goroutines release,
// double-release, release late, fail, hijack and reset, and the guard change its
// mind about connections held and idle, while each holder keeps a token in its
// connection that nobody else may touch.
func TestNoTwoHoldersWhateverIsReleasedTwice(t *testing.T) {
	f := &factory{}
	p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 5; c.MaxOpenBackoff = 10 * time.Millisecond })
	var tokens, broken atomic.Int64
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			var stale []pool.Conn[*conn]
			for range 400 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.Int64N(int64(20*time.Millisecond))))
				c, err := p.Acquire(ctx)
				cancel()
				for _, s := range stale {
					s.Release()
					s.Fail(syscall.ECONNRESET)
					pool.Tell(s, health.State(1+rand.IntN(int(health.SlowReader))))
				}
				if err != nil {
					continue
				}
				mine := tokens.Add(1)
				if !c.Value().owner.CompareAndSwap(0, mine) || c.Value().closed.Load() {
					broken.Add(1)
				}
				if rand.IntN(4) == 0 {
					pool.Tell(c, health.Suspect)
					runtime.Gosched()
				}
				if rand.IntN(3) == 0 {
					pool.Tell(c, health.Alive)
				}
				if !c.Value().owner.CompareAndSwap(mine, 0) || c.Value().closed.Load() {
					broken.Add(1)
				}
				switch n := rand.IntN(100); {
				case n < 10:
					c.Fail(syscall.ECONNRESET)
				case n < 12:
					if v, ok := c.Hijack(); ok {
						f.close(v)
					}
				case n < 13:
					p.Reset()
					c.Release()
				case n < 15:
					pool.Tell(c, health.Dead)
					c.Release()
				default:
					c.Release()
				}
				if stale = append(stale, c); len(stale) > 4 {
					stale = stale[1:]
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, broken.Load(), "two holders of one connection, or a closed one handed out")
	require.LessOrEqual(t, p.Stat().Total, 5)
	require.NotZero(t, p.Stat().Closed(pool.ReasonSilent), "no suspect had to give way")
	require.Zero(t, p.Stat().InUse)
	require.Zero(t, p.Stat().Waiting)
}

func TestTenThousandImpatientCallersLeaveNothingBehind(t *testing.T) {
	clock := netlab.NewClock(t)
	before := runtime.NumGoroutine()
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 10; c.MaxWaiters = -1 })
	var expired, served atomic.Int64
	var wg sync.WaitGroup
	for range 10_000 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			c, err := p.Acquire(ctx)
			if err != nil {
				expired.Add(1)
				return
			}
			served.Add(1)
			<-ctx.Done() // hold it until this caller's own time is over
			c.Release()
		})
	}
	wg.Wait()
	require.NotZero(t, expired.Load())
	require.NotZero(t, served.Load())
	began := time.Now()
	for range 1000 {
		acquire(t, p).Release()
	}
	require.Less(t, clock.Since(began), allowed(time.Second), "recovered")
	s := p.Stat()
	require.Zero(t, s.Waiting)
	require.Zero(t, s.InUse)
	require.LessOrEqual(t, s.Total, 10)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, 5*time.Second, time.Millisecond)
}

func TestBurstsNeverStall(t *testing.T) {
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 3 })
	for range 2000 {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				c, err := p.Acquire(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				c.Release()
			})
		}
		wg.Wait()
	}
}

func TestNobodyStarves(t *testing.T) {
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 2 })
	const enough = 20_000
	var counts [16]int
	var stop atomic.Bool
	var short atomic.Int64 // of enough
	short.Store(int64(len(counts)))
	var wg sync.WaitGroup
	for i := range counts {
		wg.Go(func() {
			for !stop.Load() {
				c, err := p.Acquire(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
				c.Release()
				counts[i]++
				// Not when one has enough: this machine may have stopped another
				// one's thread for as long.
				if counts[i] == enough && short.Add(-1) == 0 || counts[i] == 10*enough {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
	low, high := counts[0], counts[0]
	for _, c := range counts {
		low, high = min(low, c), max(high, c)
	}
	require.Greater(t, float64(low)/float64(high), 0.2, "%v", counts) // without order it is 0.02
}
