package grpcclient

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pipe is a connection that notes that it was closed.
type pipe struct {
	net.Conn
	closed atomic.Bool
}

func (p *pipe) Close() error { p.closed.Store(true); return nil }

// script is a dial function whose nth attempt takes a time, and then ends well or
// with an error. What isn't in it waits for its context.
type script struct {
	steps []step
	conns []*pipe
	begun atomic.Int32

	mu      sync.Mutex
	now     int // under way
	most    int
	givenUp []error // why
}

type step struct {
	takes time.Duration
	err   error
	deaf  bool // it doesn't heed its context
}

func (s *script) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	i := int(s.begun.Add(1)) - 1
	s.count(1, nil)
	if i >= len(s.steps) {
		<-ctx.Done()
		s.count(-1, ctx.Err())
		return nil, ctx.Err()
	}
	done := ctx.Done()
	if s.steps[i].deaf {
		done = nil
	}
	select {
	case <-time.After(s.steps[i].takes):
	case <-done:
		s.count(-1, ctx.Err())
		return nil, ctx.Err()
	}
	s.count(-1, nil)
	if err := s.steps[i].err; err != nil {
		return nil, err
	}
	return s.conns[i], nil
}

func (s *script) count(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += n
	s.most = max(s.most, s.now)
	if err != nil {
		s.givenUp = append(s.givenUp, err)
	}
}

func persistently(ctx context.Context, steps ...step) (*script, net.Conn, time.Duration, error) {
	s := &script{steps: steps}
	for range steps {
		s.conns = append(s.conns, &pipe{})
	}
	begun := time.Now()
	conn, err := (&connector{connect: s.dial}).persist(ctx, "address:1", nil)
	return s, conn, time.Since(begun), err
}

func TestALostSYNIsFollowedByAFreshOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn, took, err := persistently(t.Context(), step{takes: time.Hour}, step{takes: time.Hour}, step{takes: time.Millisecond})
		require.NoError(t, err)
		assert.Same(t, s.conns[2], conn)
		assert.LessOrEqual(t, took, 2*(impatience+jitter)+time.Millisecond)
	})
}

// The path is slow: no fresh one is answered before the next.
func TestTheFirstAttemptGoesOnWhereAnswersTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 4 * time.Second
		s, conn, took, err := persistently(t.Context(), step{takes: rtt}, step{takes: rtt}, step{takes: rtt}, step{takes: rtt})
		require.NoError(t, err)
		assert.Same(t, s.conns[0], conn)
		assert.Equal(t, rtt, took)
	})
}

func TestTheFirstAttemptsFailureCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, other := errors.New("refused"), errors.New("other")
		_, _, took, err := persistently(t.Context(), step{takes: time.Millisecond, err: refused})
		assert.Equal(t, refused, err)
		assert.Equal(t, time.Millisecond, took)
		_, _, took, err = persistently(t.Context(), step{takes: 2 * time.Second, err: refused}, step{err: other}, step{err: other})
		assert.Equal(t, refused, err)
		assert.Equal(t, 2*time.Second, took)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, took, err = persistently(ctx)
		assert.Equal(t, context.DeadlineExceeded, err)
		assert.Equal(t, 3*time.Second, took)
	})
}

func TestWhoConnectsTooLateIsWaitedForAndClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn, took, err := persistently(t.Context(), step{takes: 2 * time.Second, deaf: true}, step{takes: time.Millisecond})
		require.NoError(t, err)
		assert.Same(t, s.conns[1], conn)
		assert.True(t, s.conns[0].closed.Load())
		assert.False(t, s.conns[1].closed.Load())
		assert.Equal(t, 2*time.Second, took)
		assert.EqualValues(t, 2, s.begun.Load(), "and no further one was begun")
		assert.Zero(t, s.now)
	})
}

// A balancer sees two a second on a slow path, and no more than three at a time.
func TestFreshSYNsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s, _, _, err := persistently(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, s.begun.Load(), int32(1+20*time.Second/impatience))
		assert.Greater(t, s.begun.Load(), int32(20*time.Second/(impatience+jitter)))
		assert.LessOrEqual(t, s.most, 3)
	})
}

// So what counts failed dials counts one, or none.
func TestOfTheAttemptsAtOneConnectionAllButOneEndAsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		s, _, _, err := persistently(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, s.now, "nobody is left behind")
		failures := slices.DeleteFunc(s.givenUp, func(err error) bool { return errors.Is(err, context.Canceled) })
		assert.Equal(t, []error{context.DeadlineExceeded}, failures)
		s, _, _, err = persistently(t.Context(), step{takes: 5 * time.Second})
		require.NoError(t, err)
		require.Zero(t, s.now)
		assert.NotEmpty(t, s.givenUp)
		for _, err := range s.givenUp {
			assert.ErrorIs(t, err, context.Canceled)
		}
	})
}
