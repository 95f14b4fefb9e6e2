package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// newSuspects makes a full pool and n suspects in it, the first of which has
// been silent the longest.
func newSuspects(t *testing.T, n int, edit func(*pool.Config[*conn])) (*pool.Pool[*conn], *factory, []pool.Conn[*conn]) {
	f := &factory{}
	p := newPool(t, f, func(c *pool.Config[*conn]) {
		c.MaxConns, c.MaxConcurrentOpens = n, n
		c.MaxConnIdleTime, c.MaxConnLifetime = -1, -1
		if edit != nil {
			edit(c)
		}
	})
	held := make([]pool.Conn[*conn], n)
	for i := range held {
		held[i] = acquire(t, p)
	}
	for _, c := range held {
		c.Release()
	}
	time.Sleep(2 * time.Second) // they are proven
	synctest.Wait()
	for _, c := range held {
		pool.Tell(c, health.Suspect)
		time.Sleep(time.Millisecond)
	}
	return p, f, held
}

// got acquires in the background, and returns when the caller is in the queue.
func got(p *pool.Pool[*conn]) <-chan pool.Conn[*conn] {
	c := make(chan pool.Conn[*conn], 1)
	go func() {
		held, err := p.Acquire(context.Background())
		if err != nil {
			close(c)
			return
		}
		c <- held
	}()
	synctest.Wait()
	return c
}

func TestASuspectIsPassedOverAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, nil)
		fill(t, p, 2)
		top := acquire(t, p)
		top.Release()
		pool.Tell(top, health.Suspect)
		s := p.Stat()
		require.Equal(t, 1, s.Idle)
		require.Equal(t, 1, s.Suspect)
		require.Equal(t, 2, s.Total)
		require.Zero(t, s.InUse)

		other := acquire(t, p)
		require.NotSame(t, top.Value(), other.Value())
		pool.Tell(top, health.Alive)
		require.Equal(t, 1, p.Stat().Idle)
		back := acquire(t, p)
		require.Same(t, top.Value(), back.Value())
		other.Release()
		back.Release()
		require.Zero(t, p.Stat().ClosedAll())
	})
}

func TestASuspectInUseIsLeftToItsHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		c := acquire(t, p)
		pool.Tell(c, health.Suspect)
		require.ErrorIs(t, c.Err(), pool.ErrSuspect)
		require.Equal(t, 1, p.Stat().InUse)
		pool.Tell(c, health.SlowReader)
		require.NoError(t, c.Err())
		pool.Tell(c, health.Suspect)
		c.Release()
		require.Equal(t, 1, p.Stat().Suspect)
		pool.Tell(c, health.Quiet)
		require.Equal(t, 1, p.Stat().Idle)

		again := acquire(t, p)
		require.Same(t, c.Value(), again.Value())
		pool.Tell(c, health.Suspect)
		again.Release()
		require.Equal(t, 1, p.Stat().Suspect)
		pool.Tell(c, health.Alive)
		again = acquire(t, p)
		pool.Tell(c, health.Suspect)
		pool.Tell(c, health.Alive)
		again.Release()
		require.Equal(t, 1, p.Stat().Idle)
	})
}

func TestASuspectGivenBackServesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 2 })
		first, second := acquire(t, p), acquire(t, p)
		f.set(errRefused) // what is opened in the slot that becomes free
		waiting := got(p)
		behind := got(p)
		pool.Tell(first, health.Suspect)
		pool.Tell(second, health.Suspect)
		first.Release()
		second.Release()
		time.Sleep(100 * time.Millisecond)
		require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonSilent), "the longest silent one gave way")
		require.True(t, first.Value().closed.Load())
		require.Equal(t, 1, p.Stat().Suspect)
		require.Equal(t, 2, p.Stat().Waiting)

		pool.Tell(second, health.Alive)
		c := <-waiting
		require.Same(t, second.Value(), c.Value(), "who has waited longest is served by who is cleared")
		c.Release()
		(<-behind).Release()
	})
}

func TestAClearedSuspectHasBeenIdleAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConnIdleTime = 16 * time.Second })
		c := acquire(t, p)
		c.Release()
		time.Sleep(10 * time.Second)
		pool.Tell(c, health.Suspect)
		time.Sleep(4 * time.Second)
		pool.Tell(c, health.Alive)
		require.Equal(t, 1, p.Stat().Idle)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Zero(t, p.Stat().Total)
		require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonIdle))
	})
}

func TestSuspectsObeyWhatTheIdleObey(t *testing.T) {
	for name, tc := range map[string]struct {
		do     func(t *testing.T, p *pool.Pool[*conn], c pool.Conn[*conn])
		reason pool.Reason
	}{
		"the idle limit": {func(*testing.T, *pool.Pool[*conn], pool.Conn[*conn]) { time.Sleep(17 * time.Second) }, pool.ReasonIdle},
		"the lifetime": {func(_ *testing.T, _ *pool.Pool[*conn], c pool.Conn[*conn]) {
			pool.Tell(c, health.Alive)
			time.Sleep(14 * time.Second)
			c.Release()
			pool.Tell(c, health.Suspect)
			time.Sleep(7 * time.Second)
		}, pool.ReasonLifetime},
		"Reset": {func(_ *testing.T, p *pool.Pool[*conn], _ pool.Conn[*conn]) { p.Reset() }, pool.ReasonReset},
		"Close": {func(t *testing.T, p *pool.Pool[*conn], _ pool.Conn[*conn]) { closePool(t, p) }, pool.ReasonShutdown},
		"death": {func(_ *testing.T, _ *pool.Pool[*conn], c pool.Conn[*conn]) { pool.Tell(c, health.Dead) }, pool.ReasonDead},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
					c.MaxConnIdleTime, c.MaxConnLifetime, c.MaxConnLifetimeJitter = 16*time.Second, 20*time.Second, -1
				})
				c := acquire(t, p)
				if tc.reason != pool.ReasonLifetime {
					c.Release()
				}
				pool.Tell(c, health.Suspect)
				tc.do(t, p, c)
				synctest.Wait()
				require.Zero(t, p.Stat().Total)
				require.EqualValues(t, 1, p.Stat().Closed(tc.reason))
				pool.Tell(c, health.Alive) // too late
				pool.Tell(c, health.Suspect)
				require.Zero(t, p.Stat().Total)
			})
		})
	}
}

func TestASuspectThatIsClearedTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.MaxConnIdleTime = 160 * time.Second // looked at every 10 s
			c.MaxConnLifetime, c.MaxConnLifetimeJitter = 11*time.Second, -1
		})
		c := acquire(t, p)
		c.Release()
		pool.Tell(c, health.Suspect)
		p.Stat()
		time.Sleep(11 * time.Second)
		pool.Tell(c, health.Alive)
		synctest.Wait()
		require.Zero(t, p.Stat().Total)
		require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonLifetime))
	})
}

func TestSuspectsAreReplacedWhereThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MinIdleConns = 2 })
		held := make([]pool.Conn[*conn], 4)
		for i := range held {
			held[i] = acquire(t, p)
		}
		for _, c := range held {
			c.Release()
		}
		pool.Tell(held[0], health.Dead)
		synctest.Wait()
		pool.Tell(held[1], health.Suspect)
		pool.Tell(held[2], health.Suspect)
		synctest.Wait()
		s := p.Stat()
		require.Equal(t, 2, s.Suspect)
		require.Equal(t, 2, s.Idle)
		require.EqualValues(t, 5, s.Opened)
		require.Zero(t, s.Closed(pool.ReasonSilent))
	})
}

func TestTheLongestSilentSuspectYieldsItsSlotToACaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closes := make(chan pool.ConnClosed, 10)
		p, _, held := newSuspects(t, 3, func(c *pool.Config[*conn]) {
			c.Trace = &pool.Trace{ConnClosed: func(c pool.ConnClosed) { closes <- c }}
		})
		c := acquire(t, p)
		require.True(t, held[0].Value().closed.Load())
		require.Equal(t, 2, p.Stat().Suspect, "one caller, one slot")
		require.Len(t, closes, 1)
		closed := <-closes
		require.Equal(t, pool.ReasonSilent, closed.Reason)
		require.Equal(t, health.Path, closed.Class, "%v", closed.Err)
		require.ErrorContains(t, closed.Err, "a caller needed the slot")

		more := []<-chan pool.Conn[*conn]{got(p), got(p)}
		require.Equal(t, 0, p.Stat().Suspect)
		require.Equal(t, 3, p.Stat().InUse)
		c.Release()
		for _, m := range more {
			(<-m).Release()
		}
	})
}

func TestOneSuspectYieldsItsSlotUntilSomethingCouldBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, held := newSuspects(t, 4, nil)
		f.set(errRefused)
		var waiting []<-chan pool.Conn[*conn]
		for range 3 {
			waiting = append(waiting, got(p))
		}
		time.Sleep(3 * time.Second)
		s := p.Stat()
		require.Equal(t, 3, s.Suspect, "a blip must not cost them all")
		require.NotZero(t, s.OpenFailures)
		require.True(t, held[0].Value().closed.Load())

		f.set(nil)
		time.Sleep(3 * time.Second)
		first := <-waiting[0]
		first.Release() // and is proven
		(<-waiting[1]).Release()
		(<-waiting[2]).Release()
		pool.Tell(held[3], health.Alive)
		require.LessOrEqual(t, p.Stat().Closed(pool.ReasonSilent), int64(3))
	})
}

func TestASlowOpenCostsOneSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newSuspects(t, 4, nil)
		f.mu.Lock()
		f.takes = time.Second
		f.mu.Unlock()
		began := time.Now()
		var waiting []<-chan pool.Conn[*conn]
		for range 4 {
			waiting = append(waiting, got(p))
		}
		time.Sleep(999 * time.Millisecond)
		require.Equal(t, 3, p.Stat().Suspect)
		for _, w := range waiting {
			defer (<-w).Release()
		}
		require.Equal(t, 2*time.Second, time.Since(began), "the first shows that it works, the others follow together")
	})
}

func TestAnAccusedConnectionIsGivenTheTimeToAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		c := acquire(t, p)
		c.Release()
		pool.Accuse(c)
		began := time.Now()
		next := acquire(t, p)
		require.NotSame(t, c.Value(), next.Value())
		require.Equal(t, 300*time.Millisecond, time.Since(began))
		next.Release()

		pool.Accuse(next)
		waiting := got(p)
		time.Sleep(100 * time.Millisecond)
		pool.Tell(next, health.Alive)
		again := <-waiting
		require.Same(t, next.Value(), again.Value())
		again.Release()
		time.Sleep(time.Second)
		require.EqualValues(t, 2, p.Stat().Opened)
	})
}

func TestCallersWithoutADeadlineDoNotWaitForSuspectsLongerThanDetectWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, held := newSuspects(t, 2, nil)
		f.set(errRefused)
		began := time.Now()
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, errRefused)
		took := time.Since(began)
		require.GreaterOrEqual(t, took, 10*time.Second)
		require.Less(t, took, 12*time.Second)
		require.False(t, held[1].Value().closed.Load())
	})
}

func TestDetectWithinCountsFromTheLastConnectionsFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		held := acquire(t, p)
		f.set(errRefused)
		began := time.Now()
		time.AfterFunc(8*time.Second, func() {
			pool.Tell(held, health.Suspect)
			held.Release()
		})
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, errRefused)
		require.GreaterOrEqual(t, time.Since(began), 18*time.Second)
		require.Less(t, time.Since(began), 20*time.Second)
	})
}

func TestTheirDeathDoesNotProlongTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, held := newSuspects(t, 2, nil)
		f.set(errRefused)
		time.AfterFunc(5*time.Second, func() { pool.Tell(held[1], health.Dead) })
		began := time.Now()
		_, err := p.Acquire(context.Background())
		require.ErrorIs(t, err, errRefused)
		require.Less(t, time.Since(began), 12*time.Second)
	})
}

func TestNoSuspectYieldsItsSlotWhileTheFirstConnectionAfterAFailureIsUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, _ := newSuspects(t, 2, nil)
		f.set(errRefused)
		first := got(p)
		time.Sleep(3 * time.Second)
		f.set(nil)
		c := <-first
		second := got(p)
		time.Sleep(3 * time.Second)
		require.Equal(t, 1, p.Stat().Suspect)
		c.Release()
		(<-second).Release()
	})
}

func TestASuspectIsNotTakenForUselessWhenItDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, held := newSuspects(t, 1, nil)
		pool.Tell(held[0], health.Dead)
		synctest.Wait()
		require.Zero(t, p.Stat().OpenFailures)
		acquire(t, p).Release()
	})
}
