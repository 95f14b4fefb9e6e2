package pool_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestAPingThatIsDeafToItsContextIsInterrupted(t *testing.T) {
	s := newServer(t, func(c net.Conn) { io.Copy(io.Discard, c) }) // never answers
	p := newNetPool(t, pool.Config[net.Conn]{
		Open: s.open, MaxConns: 1, PingPeriod: time.Millisecond, PingTimeout: 20 * time.Millisecond,
		Ping: func(_ context.Context, c net.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		},
	})
	acquire(t, p).Release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.Eventually(t, func() bool { // until the ping is due
		c, err := p.Acquire(ctx)
		c.Release()
		return err != nil || p.Stat().Pinged > 0
	}, 10*time.Second, 2*time.Millisecond)
	require.NoError(t, ctx.Err())
	now := p.Stat()
	require.NotZero(t, now.Pinged)
	require.Equal(t, now.Pinged, now.Closed(pool.ReasonPing), "one each, also of the new ones that waited for a millisecond")
}

func TestNoConnectionIsReturnedAfterTheContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(context.Context, *conn) error { time.Sleep(500 * time.Millisecond); return nil }
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		before := p.Stat().Acquired
		c, err := p.Acquire(ctx)
		c.Release()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, before, p.Stat().Acquired)
	})
}

// canceller makes callers whose context ends in the moment after their ping
// has succeeded.
type canceller struct {
	cancel atomic.Pointer[context.CancelFunc]
}

func (c *canceller) pingDone(context.Context, pool.PingDone) {
	if cancel := c.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

func (c *canceller) acquire(t *testing.T, p *pool.Pool[*conn]) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.cancel.Store(&cancel)
	defer c.cancel.Store(nil)
	_, err := p.Acquire(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestCallersWhoGiveUpDoNotProlongTheIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c canceller
		p := newPool(t, &factory{}, func(cfg *pool.Config[*conn]) {
			cfg.MaxConnIdleTime = 32 * time.Second
			cfg.Ping = func(context.Context, *conn) error { return nil }
			cfg.PingPeriod = time.Second
			cfg.Trace = &pool.Trace{PingDone: c.pingDone}
		})
		fill(t, p, 1)
		for range 6 {
			time.Sleep(5 * time.Second)
			c.acquire(t, p)
			require.Equal(t, 1, p.Stat().Idle)
		}
		time.Sleep(5 * time.Second)
		require.Zero(t, p.Stat().Idle, "nobody has used it for 35 s")
	})
}

func TestAConnectionThatJustAnsweredIsNotPingedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c canceller
		p := newPool(t, &factory{}, func(cfg *pool.Config[*conn]) {
			cfg.Ping = func(context.Context, *conn) error { return nil }
			cfg.Trace = &pool.Trace{PingDone: c.pingDone}
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		c.acquire(t, p)
		time.Sleep(10 * time.Second)
		acquire(t, p).Release()
		require.EqualValues(t, 1, p.Stat().Pinged)
	})
}

func TestConnectionsPingedTogetherAreNotPingedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.MaxConns = 3
			c.Ping = func(_ context.Context, c *conn) error {
				if c.id == 3 { // the most recently used
					return errRefused
				}
				return nil
			}
		})
		fill(t, p, 3)
		time.Sleep(31 * time.Second)
		acquire(t, p).Release()
		synctest.Wait()
		require.EqualValues(t, 3, p.Stat().Pinged)
		require.GreaterOrEqual(t, p.Stat().Idle, 2)
		time.Sleep(10 * time.Second)
		a, b := acquire(t, p), acquire(t, p)
		a.Release()
		b.Release()
		require.EqualValues(t, 3, p.Stat().Pinged)
	})
}

func TestCloseInterruptsPings(t *testing.T) {
	for name, wait := range map[string]time.Duration{"a caller's": 0, "those of all": 1500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
					c.MaxConns = 5
					c.PingTimeout = 8 * time.Second
					c.Ping = func(ctx context.Context, c *conn) error {
						if c.id == 5 && wait > 0 { // fails, and makes the pool ask the others
							time.Sleep(time.Second)
							return errRefused
						}
						<-ctx.Done()
						return ctx.Err()
					}
				})
				fill(t, p, 5)
				time.Sleep(31 * time.Second)
				var caller sync.WaitGroup
				caller.Go(func() {
					c, err := p.Acquire(context.Background())
					if err == nil {
						c.Release()
					}
				})
				time.Sleep(wait)
				synctest.Wait()
				began := time.Now()
				require.NoError(t, p.Close(t.Context()))
				require.Zero(t, time.Since(began))
				caller.Wait()
			})
		})
	}
}

func TestClosingWithoutPatienceDuringAPingClosesOnce(t *testing.T) {
	for name, succeeds := range map[string]bool{"that fails": false, "that succeeds": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &factory{}
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				ctx, giveUp := context.WithCancel(t.Context())
				defer giveUp()
				var p *pool.Pool[*conn]
				p = newPool(t, f, func(c *pool.Config[*conn]) {
					c.Ping = func(context.Context, *conn) error {
						if succeeds {
							return nil
						}
						p.Close(ended)
						return errRefused
					}
					c.Trace = &pool.Trace{PingDone: func(context.Context, pool.PingDone) {
						if succeeds {
							p.Close(ended)
							giveUp()
						}
					}}
				})
				fill(t, p, 1)
				time.Sleep(31 * time.Second)
				_, err := p.Acquire(ctx)
				require.Error(t, err)
				closePool(t, p)
				require.EqualValues(t, 1, p.Stat().ClosedAll())
				_, _, closed := f.counts()
				require.Equal(t, 1, closed)
			})
		})
	}
}

// talker answers each line with a line of its own, and at once with another one
// that nobody has asked for.
func talker(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		if _, err := r.ReadString('\n'); err != nil {
			return
		}
		io.WriteString(c, "hello\nunasked\n")
	}
}

// ask reads talker's answer and leaves the rest.
func ask(t testing.TB, c net.Conn) {
	_, err := io.WriteString(c, "\n")
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, len("hello\n")))
	require.NoError(t, err)
}

func TestNothingIsSentOnSpareConnectionsOnWhichBytesWait(t *testing.T) {
	s := newServer(t, talker)
	p := newNetPool(t, pool.Config[net.Conn]{
		Open: s.open, MaxConns: 3, PingPeriod: time.Millisecond,
		Ping: func(context.Context, net.Conn) error { return errRefused },
	})
	held := []pool.Conn[net.Conn]{acquire(t, p), acquire(t, p), acquire(t, p)}
	ask(t, held[0].Value())
	ask(t, held[1].Value())
	for _, c := range held { // the last one, on which nothing waits, is asked first
		c.Release()
	}
	time.Sleep(3 * time.Millisecond) // not synchronisation: the pings must be due
	acquire(t, p).Release()
	require.Eventually(t, func() bool { return p.Stat().ClosedAll() >= 3 }, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 2, p.Stat().Closed(pool.ReasonUnread))
}

func TestACallerWhoseConnectionFailedItsCheckKeepsTheirPlace(t *testing.T) {
	s := newServer(t, talker)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	held := acquire(t, p)
	ask(t, held.Value())
	before := p.Stat().Waits
	order := make(chan int, 2)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			c := acquire(t, p)
			order <- i
			c.Release()
		})
		require.Eventually(t, func() bool { return p.Stat().Waiting == i+1 }, 10*time.Second, time.Millisecond)
	}
	time.Sleep(2 * time.Millisecond) // not synchronisation: the check is due after one
	held.Release()                   // to the first, who must not use it
	wg.Wait()
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonUnread))
	require.EqualValues(t, 2, p.Stat().Waits-before, "who comes back has waited once")
	require.Equal(t, 0, <-order)
	require.Equal(t, 1, <-order)
}

func TestAShortPingPeriodCountsFromTheLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(context.Context, *conn) error { return nil }
			c.PingPeriod = 100 * time.Millisecond
		})
		for range 100 {
			c := acquire(t, p)
			time.Sleep(150 * time.Millisecond) // a query
			c.Release()
			time.Sleep(2 * time.Millisecond)
		}
		require.Zero(t, p.Stat().Pinged)
	})
}
