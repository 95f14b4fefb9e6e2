package grpcclient

import (
	"context"
	"errors"
	"net"
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
}

type step struct {
	takes time.Duration
	err   error
	deaf  bool // it doesn't heed its context
}

func (s *script) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	i := int(s.begun.Add(1)) - 1
	if i >= len(s.steps) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	done := ctx.Done()
	if s.steps[i].deaf {
		done = nil
	}
	select {
	case <-time.After(s.steps[i].takes):
	case <-done:
		return nil, ctx.Err()
	}
	if err := s.steps[i].err; err != nil {
		return nil, err
	}
	return s.conns[i], nil
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

func TestWhoConnectsTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn, _, err := persistently(t.Context(), step{takes: time.Minute, deaf: true}, step{takes: time.Millisecond})
		require.NoError(t, err)
		assert.Same(t, s.conns[1], conn)
		<-time.After(2 * time.Minute)
		assert.True(t, s.conns[0].closed.Load())
		assert.False(t, s.conns[1].closed.Load())
		assert.EqualValues(t, 2, s.begun.Load(), "and no further one was begun")
	})
}
