package pool_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// newTold is a pool of connections over loopback, and what the guard thinks of
// them.
func newTold(t *testing.T, s *server, maxConns int) (*pool.Pool[net.Conn], <-chan health.StateChange) {
	states := make(chan health.StateChange, 100)
	return newNetPool(t, pool.Config[net.Conn]{
		Open: s.open, MaxConns: maxConns,
		Trace: &pool.Trace{ConnState: func(c health.StateChange) { states <- c }},
	}), states
}

func TestAUseThatEndsByItsPathHasTheSiblingsAsked(t *testing.T) {
	t.Parallel()
	p, states := newTold(t, newServer(t, nil), 3)
	fill(t, p, 3)
	time.Sleep(1100 * time.Millisecond) // not synchronisation: who was heard within a second is not asked
	acquire(t, p).Fail(syscall.EHOSTUNREACH)
	for cleared := 0; cleared < 2; {
		if c := <-states; c.From == health.Suspect {
			require.Equal(t, health.Alive, c.To)
			cleared++
		}
	}
	require.Eventually(t, func() bool { return p.Stat().Idle == 2 }, 10*time.Second, time.Millisecond)
	s := p.Stat()
	require.EqualValues(t, 1, s.ClosedAll())
	require.Zero(t, s.Asked, "by a checkout")
}

func TestAnErrorOfTheApplicationAccusesNobody(t *testing.T) {
	t.Parallel()
	p, states := newTold(t, newServer(t, nil), 2)
	fill(t, p, 2)
	time.Sleep(1100 * time.Millisecond)
	acquire(t, p).Fail(errRefused)
	acquire(t, p).Fail(context.Canceled) // whose peer owes nothing
	select {
	case c := <-states:
		require.NotEqual(t, health.Suspect, c.To)
	case <-time.After(50 * time.Millisecond):
	}
	require.Eventually(t, func() bool { return p.Stat().Total == 1 }, 10*time.Second, time.Millisecond, "the other is closed")
}

func TestASuspectThatAnsweredItsHolderIsNone(t *testing.T) {
	for name, answered := range map[string]bool{"answered": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := newTold(t, newServer(t, nil), 1)
			acquire(t, p).Release()
			c := acquire(t, p)
			pool.Tell(c, health.Suspect)
			time.Sleep(30 * time.Millisecond) // not synchronisation: the kernel's clock is coarse
			if answered {
				require.NoError(t, echo(t.Context(), c.Value()))
			}
			c.Release()
			s := p.Stat()
			if answered {
				require.Equal(t, 1, s.Idle)
			} else {
				require.Equal(t, 1, s.Suspect)
			}
		})
	}
}

func TestASuspectThatYieldsItsSlotIsClosedHard(t *testing.T) {
	t.Parallel()
	s, ends := newEndings(t)
	p, _ := newTold(t, s, 1)
	c := acquire(t, p)
	c.Release()
	pool.Tell(c, health.Suspect)
	next := acquire(t, p)
	require.True(t, errors.Is(<-ends, syscall.ECONNRESET))
	next.Release()
}
