package pool_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// slowCtx has a deadline of which it takes no notice itself: a context whose
// timer is later than the socket's.
type slowCtx struct {
	context.Context
	deadline time.Time
}

func (c slowCtx) Deadline() (time.Time, bool) { return c.deadline, true }

func TestADeadlineThatTheFunctionKeepsToItselfClosesTheConnection(t *testing.T) {
	s := newServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	for name, result := range map[string]error{"nil": nil, "an error of the client's own": errors.New("command failed")} {
		t.Run(name, func(t *testing.T) {
			acquire(t, p).Release() // who finds it idle doesn't look at the deadline
			inner, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx := slowCtx{inner, time.Now().Add(100 * time.Millisecond)}
			err := p.Do(ctx, func(_ context.Context, c net.Conn) error {
				_, err := c.Read(make([]byte, 1))
				require.Error(t, err)
				return result
			})
			require.Equal(t, result, err)
			require.NoError(t, inner.Err())
			require.Zero(t, p.Stat().Idle, "the rest of a reply may be under way")
		})
	}
}

func TestACancelledDoWithoutDeadlinesClosesTheConnection(t *testing.T) {
	p := newPool(t, &factory{}, nil) // its connections take no deadline
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, p.Do(ctx, func(context.Context, *conn) error { cancel(); return nil }))
	require.Zero(t, p.Stat().Idle)
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonFailed))
}

func TestADeadlineOfTheFunctionsOwnDoesNotReachTheNextCaller(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	withTimeout, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, ctx := range map[string]context.Context{
		"of a context without end": context.Background(), "of one with an end": t.Context(), "of one with a deadline": withTimeout,
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, p.Do(ctx, func(_ context.Context, c net.Conn) error {
				return c.SetDeadline(time.Unix(1, 0))
			}))
			require.NoError(t, p.Do(context.Background(), echo))
		})
	}
	require.EqualValues(t, 1, p.Stat().Opened)
}

func TestDoFindsWhatTheFunctionLeftUnread(t *testing.T) {
	s := newServer(t, talker)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	for range 3 { // well within the millisecond in which no checkout looks
		require.NoError(t, p.Do(t.Context(), func(_ context.Context, c net.Conn) error {
			ask(t, c)
			return nil
		}))
		require.Zero(t, p.Stat().Idle)
	}
	require.EqualValues(t, 3, p.Stat().Closed(pool.ReasonFailed))
}

// countedCtx counts who waits for its end.
type countedCtx struct {
	context.Context
	done    chan struct{}
	waiting atomic.Int64
}

func (c *countedCtx) Done() <-chan struct{} { return c.done }
func (c *countedCtx) Err() error            { return nil }

// AfterFunc is what context.AfterFunc calls if a context has it.
func (c *countedCtx) AfterFunc(func()) func() bool {
	c.waiting.Add(1)
	return func() bool { c.waiting.Add(-1); return true }
}

func TestDoLeavesNothingOnTheContext(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	for name, f := range map[string]func(context.Context, net.Conn) error{
		"after a success": echo,
		"after an error":  func(context.Context, net.Conn) error { return errRefused },
		"after a panic":   func(context.Context, net.Conn) error { panic("boom") },
		"after a Goexit":  func(context.Context, net.Conn) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := &countedCtx{Context: context.Background(), done: make(chan struct{})}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				defer func() { recover() }()
				p.Do(ctx, f)
			}()
			<-ended
			require.Zero(t, ctx.waiting.Load())
		})
	}
}

func TestAPingThatPanicsOrEndsItsGoroutineLeavesNothingOnTheContext(t *testing.T) {
	s := newServer(t, nil)
	for name, ping := range map[string]func(){"after a panic": func() { panic("boom") }, "after a Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var pinged atomic.Int64
			p := newNetPool(t, pool.Config[net.Conn]{
				Open: s.open, MaxConns: 1, PingPeriod: time.Millisecond,
				Ping: func(context.Context, net.Conn) error { pinged.Add(1); ping(); return nil },
			})
			acquire(t, p).Release()
			ctx := &countedCtx{Context: context.Background(), done: make(chan struct{})}
			require.Eventually(t, func() bool { // until the ping is due
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					c, err := p.Acquire(ctx)
					if err == nil {
						c.Release()
					}
				}()
				<-ended
				return pinged.Load() > 0
			}, 10*time.Second, 2*time.Millisecond)
			require.Zero(t, ctx.waiting.Load())
			require.Zero(t, p.Stat().InUse)
		})
	}
}
