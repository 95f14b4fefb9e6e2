package pool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// What the user's functions do to a pool by panicking, by ending their
// goroutine as t.FailNow does, by hanging and by returning nothing.

func TestAnOpenThatEndsItsGoroutineIsAFailedOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		var calls atomic.Int64
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.Open = func(ctx context.Context) (*conn, error) {
				if calls.Add(1) == 1 {
					runtime.Goexit()
				}
				return f.open(ctx)
			}
		})
		acquire(t, p).Release()
		require.EqualValues(t, 1, p.Stat().OpenFailed)
	})
}

func TestAPingThatEndsItsGoroutineLeavesNoSlotBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.Ping = func(context.Context, *conn) error { runtime.Goexit(); return nil }
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p.Acquire(t.Context())
		}()
		<-ended
		require.Zero(t, p.Stat().InUse)
		require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonPing))
		acquire(t, p).Release()
	})
}

func TestACloseThatEndsItsGoroutineLeavesNoSlotBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		closed := make(chan pool.ConnClosed, 1)
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.Close = func(c *conn) error {
				f.close(c)
				if c.id == 1 {
					runtime.Goexit()
				}
				return nil
			}
			c.Trace = &pool.Trace{ConnClosed: func(c pool.ConnClosed) {
				select {
				case closed <- c:
				default:
				}
			}}
		})
		acquire(t, p).Fail(syscall.EPIPE)
		acquire(t, p).Release()
		require.ErrorContains(t, (<-closed).CloseErr, "Goexit")
	})
}

func TestDoSurvivesAFunctionThatEndsItsGoroutine(t *testing.T) {
	f := &factory{}
	p := newPool(t, f, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Do(t.Context(), func(context.Context, *conn) error { runtime.Goexit(); return nil })
	}()
	<-ended
	require.Zero(t, p.Stat().InUse)
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonFailed), "nobody knows what was under way")
}

func TestAPanicInClassifyClosesTheConnection(t *testing.T) {
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
		c.MaxConns = 1
		c.Classify = func(error) health.Class { panic("boom") }
	})
	err := p.Do(t.Context(), func(context.Context, *conn) error { return errRefused })
	require.ErrorIs(t, err, errRefused)
	acquire(t, p).Fail(errRefused)
	require.Zero(t, p.Stat().InUse)
	require.Zero(t, p.Stat().Idle)
}

func TestAPanicInAcquireDoneLeavesNoSlotBehind(t *testing.T) {
	p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
		c.MaxConns = 1
		c.Trace = &pool.Trace{AcquireDone: func(context.Context, pool.AcquireDone) { panic("boom") }}
	})
	require.PanicsWithValue(t, "boom", func() { p.Acquire(t.Context()) })
	require.Zero(t, p.Stat().InUse)
	require.Equal(t, 1, p.Stat().Idle)
}

func TestAPanicInNetConnIsAFailedOpenAndClosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p := newPool(t, f, func(c *pool.Config[*conn]) { c.NetConn = func(*conn) net.Conn { panic("boom") } })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Acquire(ctx)
		var pe *pool.PanicError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, "NetConn", pe.Func)
		opened, live, _ := f.counts()
		require.NotZero(t, opened)
		require.Zero(t, live)
	})
}

func TestNilPointersAreNotConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		pointers, err := pool.New(pool.Config[*conn]{
			Open:  func(context.Context) (*conn, error) { return nil, nil },
			Close: func(*conn) error { return nil },
		})
		require.NoError(t, err)
		defer closePool(t, pointers)
		_, err = pointers.Acquire(ctx)
		require.ErrorContains(t, err, "no connection and no error")

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		interfaces := newNetPool(t, pool.Config[net.Conn]{
			Open: func(context.Context) (net.Conn, error) { var c *tls.Conn; return c, nil },
		})
		_, err = interfaces.Acquire(ctx)
		require.ErrorContains(t, err, "no connection and no error", "a nil pointer in an interface")
	})
}

// ctxClosed closes the way pgx's connections do.
type ctxClosed struct{ closed *atomic.Int64 }

func (c *ctxClosed) Close(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("a close without a bound")
	}
	c.closed.Add(1)
	return nil
}

func TestACloseMethodThatTakesAContextIsCalled(t *testing.T) {
	var opened, closed atomic.Int64
	p, err := pool.New(pool.Config[*ctxClosed]{MaxConns: 2, Open: func(context.Context) (*ctxClosed, error) {
		opened.Add(1)
		return &ctxClosed{&closed}, nil
	}})
	require.NoError(t, err)
	for range 10 {
		acquire(t, p).Fail(context.Canceled) // closes it, and is no reason to pause
	}
	acquire(t, p).Release()
	closePool(t, p)
	require.Equal(t, opened.Load(), closed.Load(), "opened and never closed")
}

// stuck is a connection whose Close waits, with and without a way around it.
type stuck struct {
	net.Conn
	release chan struct{}
}

func (s stuck) Close() error { <-s.release; return s.Conn.Close() }

func TestACloseThatHangsKeepsItsSlotForTwoCloseTimeoutsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		release := make(chan struct{})
		p, err := pool.New(pool.Config[net.Conn]{MaxConns: 1, Open: func(context.Context) (net.Conn, error) {
			return stuck{near, release}, nil
		}})
		require.NoError(t, err)
		acquire(t, p).Fail(syscall.EPIPE)
		began := time.Now()
		acquire(t, p).Release()
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
		close(release)
		closePool(t, p)
	})
}

func TestACloseThatHangsWithoutASocketKeepsItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		release := make(chan struct{})
		p := newPool(t, f, func(c *pool.Config[*conn]) {
			c.MaxConns = 1
			c.Close = func(c *conn) error { <-release; return f.close(c) }
		})
		acquire(t, p).Fail(syscall.EPIPE)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := p.Acquire(ctx)
		require.ErrorContains(t, err, "1 closing", "it may still exist")
		s := p.Stat()
		require.Equal(t, []int{1, 1, 0}, []int{s.Total, s.Closing, s.InUse}, "total, closing, in use")
		close(release)
		acquire(t, p).Release()
	})
}

func TestALifetimeMayBeForEver(t *testing.T) {
	for name, jitter := range map[string]time.Duration{"without jitter": -1, "with jitter": math.MaxInt64} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, &factory{}, func(c *pool.Config[*conn]) {
					c.MaxConnLifetime, c.MaxConnLifetimeJitter = math.MaxInt64, jitter
				})
				time.Sleep(time.Second) // the end of time is measured from now
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				c, err := p.Acquire(ctx)
				require.NoError(t, err)
				c.Release()
				require.EqualValues(t, 1, p.Stat().Opened)
			})
		})
	}
}

func TestAHookThatClosesThePoolInTheMiddleOfARoleChangeIsNoDoubleClose(t *testing.T) {
	f := &factory{}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var p *pool.Pool[*conn]
	var once sync.Once
	var closedTwice atomic.Bool
	p = newPool(t, f, func(c *pool.Config[*conn]) {
		c.Classify = func(error) health.Class { return health.Role }
		c.Trace = &pool.Trace{
			Reset: func(error) { once.Do(func() { p.Close(ended) }) },
			ConnClosed: func(c pool.ConnClosed) {
				if c.CloseErr != nil {
					closedTwice.Store(true)
				}
			},
		}
	})
	acquire(t, p).Fail(errRefused) // Close takes the connection while Fail is under way
	closePool(t, p)
	require.False(t, closedTwice.Load())
	require.EqualValues(t, 1, p.Stat().ClosedAll())
	_, _, closed := f.counts()
	require.Equal(t, 1, closed)
}
