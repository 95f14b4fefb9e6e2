package pool

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/holdfast-go/holdfast/health"
	"github.com/stretchr/testify/require"
)

// thing is a connection without a socket.
type thing struct{ id int }

func newThings(t *testing.T, edit func(*Config[*thing])) *Pool[*thing] {
	t.Helper()
	opened := 0
	cfg := Config[*thing]{
		MaxConns: 4, MaxConcurrentOpens: 1,
		Open:  func(context.Context) (*thing, error) { opened++; return &thing{opened}, nil },
		Close: func(*thing) error { return nil },
	}
	if edit != nil {
		edit(&cfg)
	}
	p, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, p.Close(ctx))
	})
	return p
}

func mustAcquire[T any](t *testing.T, p *Pool[T]) Conn[T] {
	t.Helper()
	c, err := p.Acquire(context.Background())
	require.NoError(t, err)
	return c
}

// The guard's callback first says that a connection is dead, then waits for the
// lock. The tests do the first of that by hand.

func TestADeadConnectionIsNotHandedOutWithinItsFreshMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, nil)
		c := mustAcquire(t, p)
		c.Release()
		c.e.flags.Or(flagDead)
		again := mustAcquire(t, p)
		require.NotSame(t, c.e, again.e)
		require.EqualValues(t, 1, p.Stat().Closed(ReasonDead))
		again.Release()
	})
}

func TestADeadConnectionFailsItsCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, nil)
		c := mustAcquire(t, p)
		c.Release()
		c.e.flags.Or(flagDead)
		time.Sleep(time.Second)
		again := mustAcquire(t, p)
		require.NotSame(t, c.e, again.e)
		again.Release()
	})
}

func TestAConnectionThatDiesOnItsWayToAWaiterIsNotHandedOut(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 0, "to be checked": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newThings(t, func(c *Config[*thing]) { c.MaxConns = 1 })
				held := mustAcquire(t, p)
				got := make(chan Conn[*thing], 1)
				go func() { got <- mustAcquire(t, p) }()
				synctest.Wait()
				time.Sleep(age)
				var k wake[*thing]
				p.mu.Lock()
				held.e.gen++
				p.putLocked(held.e, &k)
				p.mu.Unlock()
				held.e.flags.Or(flagDead)
				k.tell()
				c := <-got
				require.NotSame(t, held.e, c.e)
				c.Release()
			})
		})
	}
}

// The guard's callback also marks a suspect at any time that the lock is free.

func TestASuspectIsNotHandedOutWithinItsFreshMillisecond(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 0, "to be checked": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newThings(t, nil)
				c := mustAcquire(t, p)
				c.Release()
				time.Sleep(age)
				c.e.flags.Or(flagSuspect)
				again := mustAcquire(t, p)
				require.NotSame(t, c.e, again.e)
				require.Equal(t, 1, p.Stat().Suspect)
				require.Zero(t, p.Stat().ClosedAll())
				again.Release()
			})
		})
	}
}

func TestASuspectOnItsWayToAWaiterIsNotHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, func(c *Config[*thing]) { c.MaxConns = 2 })
		held, other := mustAcquire(t, p), mustAcquire(t, p)
		got := make(chan Conn[*thing], 1)
		go func() { got <- mustAcquire(t, p) }()
		synctest.Wait()
		var k wake[*thing]
		p.mu.Lock()
		held.e.gen++
		p.putLocked(held.e, &k)
		p.mu.Unlock()
		held.e.flags.Or(flagSuspect)
		k.tell()
		synctest.Wait()
		c := <-got
		require.NotSame(t, held.e, c.e)
		require.EqualValues(t, 1, p.Stat().Closed(ReasonSilent), "at the limit it has to make room")
		c.Release()
		other.Release()
	})
}

func TestASuspectYieldsItsSlotIfItIsAllThatIsLeftAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, func(c *Config[*thing]) { c.MaxConns = 1 })
		c := mustAcquire(t, p)
		p.giveBack(c.e) // unused: nothing is proven
		p.mu.Lock()
		p.fails = 1
		p.heed(c.e, health.Suspect)
		again := mustAcquire(t, p)
		require.NotSame(t, c.e, again.e)
		require.EqualValues(t, 1, p.Stat().Closed(ReasonSilent), "not later, by its idle limit")
		again.Release()
	})
}

func TestACallerWhoIsServedAndCancelledGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, func(c *Config[*thing]) { c.MaxConns = 1 })
		held := mustAcquire(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := p.Acquire(ctx)
			failed <- err
		}()
		synctest.Wait()
		var k wake[*thing]
		p.mu.Lock()
		held.e.gen++
		p.putLocked(held.e, &k)
		p.mu.Unlock()
		cancel()
		synctest.Wait()
		k.tell()
		require.ErrorIs(t, <-failed, context.Canceled)
		require.Equal(t, 1, p.Stat().Idle)
	})
}

func TestTheEventMarksAConnectionDeadBeforeItWaitsForTheLock(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p, err := New(Config[net.Conn]{MaxConns: 1, Open: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}})
	require.NoError(t, err)
	defer p.Close(context.Background())
	c := mustAcquire(t, p)
	peer, err := ln.Accept()
	require.NoError(t, err)
	c.Release()
	p.mu.Lock()
	require.NoError(t, peer.Close())
	marked := false
	for began := time.Now(); !marked && time.Since(began) < 10*time.Second; runtime.Gosched() {
		marked = c.e.has(flagDead)
	}
	p.mu.Unlock()
	require.True(t, marked)
}

func TestConnectionsPingedTogetherAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newThings(t, func(c *Config[*thing]) {
			c.MaxConnIdleTime = -1
			c.Ping = func(_ context.Context, v *thing) error {
				if v.id == 3 {
					return syscall.ETIMEDOUT
				}
				return nil
			}
		})
		a, b, c := mustAcquire(t, p), mustAcquire(t, p), mustAcquire(t, p)
		a.Release()
		b.Release()
		c.Release() // the first to be asked
		time.Sleep(time.Minute)
		held := mustAcquire(t, p)
		defer held.Release()
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range []*entry[*thing]{a.e, b.e} {
			if e != held.e {
				require.Equal(t, p.now(), e.provenAt)
				require.Equal(t, p.now()+trustFor, e.fastUntil)
				require.Zero(t, e.idleSince, "a ping is no use")
			}
		}
	})
}

// TestUpkeepBearsThatConnectionsLeaveWhileItYields makes another goroutine take
// the lock in the moment in which upkeep lets go of it: a mutex whose waiters
// have starved for a millisecond passes from one to the next in their order.
// Where that order doesn't come about, nothing is tested and nothing fails.
func TestUpkeepBearsThatConnectionsLeaveWhileItYields(t *testing.T) {
	const n = 2*upkeepBatch + 10
	p := newThings(t, func(c *Config[*thing]) { c.MaxConns = n })
	held := make([]Conn[*thing], n)
	for round := range 4 {
		for i := range held {
			held[i] = mustAcquire(t, p)
		}
		for _, c := range held {
			c.Release()
		}
		ended := make(chan struct{}, 2)
		starve := func() { time.Sleep(2 * time.Millisecond) }
		p.mu.Lock()
		id := p.upkeepID
		go func() { p.doUpkeep(id); ended <- struct{}{} }()
		starve()
		go func() {
			p.mu.Lock()
			out := p.takeIdleLocked(ReasonReset)
			p.mu.Unlock()
			p.destroyAll(out)
			ended <- struct{}{}
		}()
		starve()
		p.mu.Unlock()
		p.mu.Lock() // before the goroutine that was woken; it then gets the lock next
		starve()
		p.mu.Unlock()
		<-ended
		<-ended
		require.EqualValues(t, (round+1)*n, p.Stat().Closed(ReasonReset))
	}
}

// wallCtx has a deadline without a monotonic clock reading, such as one that
// came over a wire.
type wallCtx struct {
	context.Context
	deadline time.Time
}

func (c wallCtx) Deadline() (time.Time, bool) { return c.deadline, true }

func TestAStepOfTheWallClockFailsNoCaller(t *testing.T) {
	for name, step := range map[string]int64{"backwards": 3600, "forwards": -3600} {
		t.Run(name, func(t *testing.T) {
			p := newThings(t, func(c *Config[*thing]) { c.MaxConns = 1 })
			// What a step leaves behind: the wall reading of the pool's birth
			// disagrees with the wall clock, the monotonic one is right.
			wall := (*uint64)(unsafe.Pointer(&p.start))
			require.NotZero(t, *wall>>63, "no monotonic reading")
			*wall += uint64(step << 30) // seconds live above 30 bits of nanoseconds
			served := func(held Conn[*thing], deadline, at time.Time) (c Conn[*thing], err error) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var waiting sync.WaitGroup
				waiting.Go(func() { c, err = p.Acquire(wallCtx{ctx, deadline.Round(0)}) })
				require.Eventually(t, func() bool { return p.Stat().Waiting == 1 && time.Now().After(at) }, 30*time.Second, time.Millisecond)
				held.Release()
				waiting.Wait()
				return c, err
			}
			now := time.Now()
			c, err := served(mustAcquire(t, p), now.Add(time.Minute), now)
			require.NoError(t, err)
			now = time.Now()
			_, err = served(c, now.Add(10*time.Millisecond), now.Add(20*time.Millisecond))
			require.ErrorIs(t, err, context.DeadlineExceeded, "a deadline is a deadline")
		})
	}
}

func TestACloseDuringACheckGetsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan error, 1)
		var p *Pool[*thing]
		p = newThings(t, func(c *Config[*thing]) {
			c.MaxConnIdleTime = -1
			c.Ping = func(context.Context, *thing) error { return nil }
			c.Trace = &Trace{PingDone: func(context.Context, PingDone) {
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					closed <- p.Close(ctx)
				}()
				synctest.Wait() // the ping has gone well, then the pool is closed
			}}
		})
		mustAcquire(t, p).Release()
		time.Sleep(time.Minute)
		_, err := p.Acquire(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, <-closed)
	})
}

func TestASeveredUseIsExplainedByTheGuard(t *testing.T) {
	cause := &health.SilenceError{Remote: &net.TCPAddr{}, Fresh: true}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	err := severedError{cause, reset}
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.ErrorIs(t, err, cause)
	require.Equal(t, health.Path, health.Classify(err))
	require.ErrorContains(t, err, "connection reset by peer: health:")
	require.Equal(t, health.Path, health.Classify(slotError{time.Second}))

	var unwatched entry[*thing]
	same, severed := unwatched.severed(health.Conn, reset)
	require.Equal(t, error(reset), same)
	require.False(t, severed)
	require.Equal(t, ReasonSilent, deathBy(cause))
	require.Equal(t, ReasonDead, deathBy(reset))
	require.Equal(t, ReasonDead, deathBy(nil))
}
